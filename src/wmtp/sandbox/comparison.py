"""When what a program wrote is the answer that was expected: the rules of programming contests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_LONGEST_NUMBER = 100  # characters; longer ones are compared as words
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Comparison:
    """A rule of comparison. White space at the ends of lines and of the output never counts.

    by_line: line breaks, and white space inside a line, have to be as expected; otherwise the
    output is a sequence of words. tolerance: how far a number may be from the expected one,
    absolutely or relative to it, when at least one of the two is no whole number; None: numbers are
    words. ignore_case: `Yes` is `YES`.
    """

    by_line: bool = False
    tolerance: float | None = None
    ignore_case: bool = False

    def difference(self, found: str, expected: str) -> str | None:
        """Return None when `found` is the answer `expected`, else the first difference in words."""
        if self.ignore_case:
            found, expected = found.lower(), expected.lower()
        name = "line" if self.by_line else "word"
        pairs = zip_longest(self._parts(found), self._parts(expected))
        for number, (ours, theirs) in enumerate(pairs, start=1):
            if ours != theirs and not self._is_close(ours, theirs):
                return f"{name} {number} is {_shown(ours)}, expected {_shown(theirs)}"
        return None

    def _parts(self, text: str) -> list[str]:
        if not self.by_line:
            return text.split()
        return [line.rstrip() for line in text.rstrip().splitlines()]

    def _is_close(self, found: str | None, expected: str | None) -> bool:
        if self.tolerance is None or found is None or expected is None:
            return False
        if self.by_line:
            ours, theirs = found.split(), expected.split()
            return len(ours) == len(theirs) and all(
                one == other or _close(one, other, self.tolerance)
                for one, other in zip(ours, theirs, strict=True)
            )
        return _close(found, expected, self.tolerance)


EXACT = Comparison()


def _close(found: str, expected: str, tolerance: float) -> bool:
    """Return whether two words are numbers, not both whole, within `tolerance` of each other."""
    if max(len(found), len(expected)) > _LONGEST_NUMBER:
        return False
    if not _DECIMAL.fullmatch(found) or not _DECIMAL.fullmatch(expected):
        return False
    if _INTEGER.fullmatch(found) and _INTEGER.fullmatch(expected):
        return False
    right = float(expected)
    return abs(float(found) - right) <= tolerance * max(1.0, abs(right))


def _shown(part: str | None) -> str:
    if part is None:
        return "missing"
    return repr(part if len(part) <= _SHOWN else part[:_SHOWN] + "...")
