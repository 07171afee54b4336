"""Level 4, continued: brackets and runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations, groupby
from typing import Any

from wmtp.data.sources.minicode.kinds.kind import Kind
from wmtp.data.sources.minicode.kinds.parts import (
    PRINTABLE,
    Part,
    changes,
    characters,
    either,
    named,
    properties,
    totals,
)
from wmtp.data.sources.minicode.kinds.reductions import EDGES, LISTS, number_list

Function = Callable[..., Any]
_kind = partial(Kind, level=4)


_BRACKETS = ("()", "[]", "{}", "<>")
_ROUND_TRIPS = tuple(
    "".join(chosen) for number in (2, 3) for chosen in combinations(_BRACKETS, number)
)


def bracket_text(rng: random.Random, near: Sequence[int]) -> str:
    """Return text with brackets; half of the time they match."""

    def matched(depth: int) -> str:
        text = rng.choice(("", "a", "e1", "B", "-t", "2"))
        if depth and rng.random() < 0.8:
            pair = rng.choice(_BRACKETS)
            text += pair[0] + matched(depth - 1) + pair[1] + matched(depth - 1)
        return text

    text = matched(3)
    if rng.random() < 0.5 and text:
        place = rng.randrange(len(text))
        text = text[:place] + rng.choice(("", ")", "[", "}", "<")) + text[place + 1 :]
    return text


def brackets(largest: int) -> Kind:
    """Return the kind that matches brackets."""

    def meaning(text: str, kinds: str, c: Function, depth: int, wrong: Any) -> Any:
        kept = "".join(x for x in text if x in kinds)
        while kept != (shorter := _without_pairs(kept, kinds)):
            kept = shorter
        if kept:
            return wrong
        return sum(
            c(x)
            and sum(a in kinds[::2] for a in text[:i]) - sum(a in kinds[1::2] for a in text[:i])
            >= depth
            for i, x in enumerate(text)
            if x not in kinds
        )

    sets = tuple(
        Part(" ".join(kinds), repr(kinds), kinds, _pieces(kinds)) for kinds in _ROUND_TRIPS
    )
    return _kind(
        name="brackets",
        variables=("s", "text", "line"),
        slots={
            "kinds": sets,
            "c": either(characters(), PRINTABLE),
            "depth": named({str(k): k for k in range(1, 4)}),
            "wrong": named({"-1": -1, "None": None, '"no"': "no"}),
        },
        phrasings=(
            "Brackets are <kinds>. If they do not match in <v>, return <wrong>. Otherwise return how "
            "many characters between at least <depth> open brackets are <c>.",
            "Check that the brackets <kinds> in <v> match (all else is text) and count the text "
            "characters that are <c> and inside <depth> or more brackets. Return <wrong> if the "
            "brackets do not match.",
        ),
        meaning=meaning,
        styles=_BRACKET_STYLES,
        edges=("", "a", "((a)", "{(e1)B[<a2>t]}"),
        draw=bracket_text,
    )


def _without_pairs(text: str, kinds: str) -> str:
    for i in range(0, len(kinds), 2):
        text = text.replace(kinds[i : i + 2], "")
    return text


def _pieces(kinds: str) -> dict[str, str]:
    closing = dict(zip(kinds[1::2], kinds[::2], strict=True))
    return {"closing": repr(closing), "open": repr(kinds[::2]), "close": repr(kinds[1::2])}


_BRACKET_STYLES = (
    """
    closing = <kinds:closing>
    stack = []
    count = 0
    for x in <v>:
        if x in closing.values():
            stack.append(x)
        elif x in closing:
            if not stack or stack.pop() != closing[x]:
                return <wrong>
        elif len(stack) >= <depth> and (<c x>):
            count += 1
    return <wrong> if stack else count
    """,
    """
    stack = ""
    count = 0
    for x in <v>:
        if x in <kinds:open>:
            stack += x
        elif x in <kinds:close>:
            place = <kinds:close>.index(x)
            if stack[-1:] != <kinds:open>[place]:
                return <wrong>
            stack = stack[:-1]
        elif <c x>:
            count += len(stack) >= <depth>
    if stack:
        return <wrong>
    return count
    """,
    """
    count = 0
    def inside(i, depth, end):
        nonlocal count
        while i < len(<v>):
            x = <v>[i]
            if x in <kinds:open>:
                i = inside(i + 1, depth + 1, <kinds:close>[<kinds:open>.index(x)])
                if i is None:
                    return None
            elif x in <kinds:close>:
                return i if x == end else None
            elif depth >= <depth> and (<c x>):
                count += 1
            i += 1
        return i if end == "" else None
    if inside(0, 0, "") is None:
        return <wrong>
    return count
    """,
)


def runs(largest: int) -> Kind:
    """Return the kind that splits a list into runs."""

    def meaning(xs: list[int], f: Function, p: Function, g: Function, total: Function) -> Any:
        runs = [list(run) for _, run in groupby(xs, f)]
        return [(f(run[0]), total([g(x) for x in run])) for run in runs if p(len(run))]

    change = changes(largest)
    return _kind(
        name="runs",
        variables=LISTS,
        slots={"f": change, "p": properties(largest), "g": change, "total": totals()},
        phrasings=(
            "Split <v> into runs of neighbours x with the same value of <f x>. For each run whose "
            "length is <p>, in order, give a tuple of that value and <total> of <g x> over the run.",
            "Return a list of pairs, one for each run of consecutive elements with equal <f x> and a "
            "length that is <p>: this value, then <total> of <g x> over the elements x of the run.",
        ),
        meaning=meaning,
        styles=_RUN_STYLES,
        edges=EDGES,
        draw=lambda rng, near: [
            x for x in number_list(rng, near, 6) for _ in range(rng.choice((1, 1, 2, 3)))
        ],
    )


_RUN_STYLES = (
    """
    runs = []
    for x in <v>:
        key = <f x>
        if runs and runs[-1][0] == key:
            runs[-1][1].append(x)
        else:
            runs.append((key, [x]))
    result = []
    for key, run in runs:
        n = len(run)
        if <p n>:
            terms = [<g x> for x in run]
            result.append((key, <total terms>))
    return result
    """,
    """
    result = []
    start = 0
    keys = [<f x> for x in <v>]
    for stop in range(1, len(<v>) + 1):
        if stop == len(<v>) or keys[stop] != keys[start]:
            n = stop - start
            if <p n>:
                value = <total:start>
                for x in <v>[start:stop]:
                    term = <g x>
                    <total:step term; value>
                result.append((keys[start], value))
            start = stop
    return result
    """,
    """
    def split(items):
        if not items:
            return []
        keys = [<f x> for x in items]
        n = 1
        while n < len(items) and keys[n] == keys[0]:
            n += 1
        rest = split(items[n:])
        if not (<p n>):
            return rest
        terms = [<g x> for x in items[:n]]
        return [(keys[0], <total terms>)] + rest
    return split(<v>)
    """,
)
