"""Where a wrong program differs from a right one."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate, chain

from wmtp.data.mutation import SYMBOL, visible_range
from wmtp.data.syntax import Range

# Tokens that shape a program without being seen, and those that mean nothing.
_STRUCTURE = frozenset({tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT})
_IGNORED = frozenset({tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER})


@dataclass(frozen=True, slots=True)
class _Token:
    """key: what is compared. start, stop: its place, empty for a token that is not seen."""

    key: str
    start: int
    stop: int

    @property
    def is_seen(self) -> bool:
        return self.start < self.stop


def fault_spans(wrong: str, right: str) -> tuple[Range, ...]:
    """Return the half-open character ranges of `wrong` that differ from `right`, in order.

    Lines are aligned first, then the tokens of the lines that differ. Tokens are Python's where
    both texts have them, so that comments, blank lines and the width of an indentation do not count
    but its level does; else words and symbols. Where something is missing from `wrong`, the range
    is what shows it, as for planted faults (`wmtp.data.mutation.visible_range`): the next word or
    symbol, or what follows the last one, which is empty at the end. Ranges never overlap; programs that
    are the same have none.
    """
    try:
        ours, theirs = _python_lines(wrong), _python_lines(right)
    except (SyntaxError, tokenize.TokenError):
        ours, theirs = _word_lines(wrong), _word_lines(right)
    tokens = list(chain.from_iterable(ours))
    if not any(token.is_seen for token in tokens):
        return ()
    ranges = []
    for low, high in _changes(ours, theirs):
        changed = [(token.start, token.stop) for token in tokens[low:high] if token.is_seen]
        if not changed:
            following = (token.start for token in tokens[high:] if token.is_seen)
            place = next(following, max(len(wrong.rstrip()), tokens[low - 1].stop if low else 0))
            changed = [visible_range(wrong, (place, place), len(wrong))]
        ranges += changed
    return _joined(wrong, ranges)


def _changes(ours: list[list[_Token]], theirs: list[list[_Token]]) -> Iterator[Range]:
    """Yield ranges of the tokens of all our lines that differ; empty where theirs has more."""
    first = list(accumulate(map(len, ours), initial=0))
    for a, b, c, d in _differences(
        [_keys(line) for line in ours], [_keys(line) for line in theirs]
    ):
        block = _keys(chain.from_iterable(ours[a:b]))
        other = _keys(chain.from_iterable(theirs[c:d]))
        for low, high, _, _ in _differences(block, other):
            yield first[a] + low, first[a] + high


def _keys(tokens: Iterable[_Token]) -> tuple[str, ...]:
    return tuple(token.key for token in tokens)


def _differences(
    ours: Sequence[Hashable], theirs: Sequence[Hashable]
) -> Iterator[tuple[int, int, int, int]]:
    """Yield `ours[a:b]` and `theirs[c:d]` that differ, such as the second of two for one."""
    for kind, a, b, c, d in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if kind == "delete":
            while b < len(ours) and d < len(theirs) and ours[a] == ours[b] == theirs[d]:
                a, b, c, d = a + 1, b + 1, c + 1, d + 1
        if kind != "equal":
            yield a, b, c, d


def _python_lines(text: str) -> list[list[_Token]]:
    """Return the tokens of each logical line; raises what `tokenize` raises."""
    starts = list(accumulate((len(line) + 1 for line in text.split("\n")), initial=0))
    lines: list[list[_Token]] = [[]]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.ERRORTOKEN:  # raised as TokenError from Python 3.12 on
            raise SyntaxError(f"{token.string!a} is no token")
        start, stop = (
            min(starts[row - 1] + column, len(text)) for row, column in (token.start, token.end)
        )
        if token.type in _STRUCTURE:
            # At its end: an INDENT is the white space before what it indents.
            lines[-1].append(_Token(f"\n{token.type}", stop, stop))
        elif token.type not in _IGNORED and not token.string.isspace():
            lines[-1].append(_Token(token.string, start, stop))
        if token.type == tokenize.NEWLINE:
            lines.append([])
    lines[-1] = [token for token in lines[-1] if token.is_seen]  # blocks end with the text
    return lines


def _word_lines(text: str) -> list[list[_Token]]:
    """Return the words and symbols of each line."""
    lines: list[list[_Token]] = []
    start = 0
    for line in text.split("\n"):
        found = SYMBOL.finditer(line)
        lines.append([_Token(m[0], start + m.start(), start + m.end()) for m in found])
        start += len(line) + 1
    return lines


def _joined(text: str, ranges: list[Range]) -> tuple[Range, ...]:
    """Return `ranges` in order; what overlaps or has only blanks between is one range.

    The empty one at the end stays apart.
    """
    joined: list[Range] = []
    for start, stop in sorted(set(ranges)):
        if joined and start < stop and not text[joined[-1][1] : start].strip(" \t"):
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return tuple(joined)
