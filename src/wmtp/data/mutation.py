"""Small faults planted in correct Python code.

Each mutant differs from the code at one place, as real slips do (DeMillo, Lipton and Sayward 1978:
mutation testing). The tree says where, and only those characters are replaced, so that formatting
does not give the fault away. Whether a mutant is *wrong* is for tests to say: some are equivalent.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from wmtp.data.mutation_operators import Edit, edits
from wmtp.data.syntax import ParsedCode, Range, parse

SYMBOL = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Mutant:
    """Code with one planted fault.

    spans: half-open character ranges of `code` that were changed; where text was removed, what shows it
    (`visible_range`). operator: the kind of fault, such as `boundary`.
    """

    code: str
    spans: tuple[Range, ...]
    operator: str


def mutants(
    code: str,
    *,
    region: Range | None = None,
    seed: int | str = 0,
    limit: int | None = None,
) -> list[Mutant]:
    """Return up to `limit` distinct mutants of `code`, all valid Python, in an order set by `seed`.

    Only characters of `region` (half-open; default: all) are changed. Kinds of fault take turns, so
    that frequent ones (wrong variables) do not crowd out rare ones (boundaries). Code that is not
    valid Python is a `SyntaxError`.
    """
    low, high = region or (0, len(code))
    found = [edit for edit in edits(ParsedCode(code)) if _inside(edit, low, high)]
    chosen: list[Mutant] = []
    seen = {code}
    for edit in _take_turns(found, random.Random(f"mutants:{seed}")):
        if limit is not None and len(chosen) >= limit:
            break
        mutant = _apply(code, edit, low, high)
        if mutant is not None and mutant.code not in seen:
            seen.add(mutant.code)
            chosen.append(mutant)
    return chosen


def _inside(edit: Edit, low: int, high: int) -> bool:
    return all(low <= start and stop <= high for start, stop, _ in edit.replacements)


def _take_turns(found: list[Edit], rng: random.Random) -> Iterator[Edit]:
    """Yield all edits, one of each operator in turn, in random order within an operator."""
    groups: dict[str, list[Edit]] = {}
    for edit in found:
        groups.setdefault(edit.operator, []).append(edit)
    for group in groups.values():
        rng.shuffle(group)
    while groups:
        for operator in rng.sample(list(groups), len(groups)):
            yield groups[operator].pop()
            if not groups[operator]:
                del groups[operator]


def _apply(code: str, edit: Edit, low: int, high: int) -> Mutant | None:
    """Return the mutant, or None when it is not valid Python or nothing of the region is left."""
    parts: list[str] = []
    spans: list[Range] = []
    position = length = 0
    for start, stop, text in sorted(edit.replacements):
        parts += [code[position:start], text]
        length += start - position
        spans.append((length, length + len(text)))
        length += len(text)
        position = stop
    mutated = "".join(parts) + code[position:]
    try:
        parse(mutated)
    except SyntaxError:
        return None
    high += len(mutated) - len(code)
    if not SYMBOL.search(mutated, low, high):
        return None
    shown = tuple(visible_range(mutated, span, high) for span in spans)
    return Mutant(mutated, shown, edit.operator)


def visible_range(code: str, span: Range, high: int) -> Range:
    """Return `span`, or for an empty one what shows that something is missing there.

    That is the next word or symbol before `high`; else the white space up to there; else, the range
    `(high, high)`, the end itself.
    """
    start, stop = span
    if start < stop:
        return span
    following = SYMBOL.search(code, start, high)
    return following.span() if following is not None else (start, high)
