"""Level 1: a list of numbers becomes one number, or one of its elements."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import Any

from wmtp.data.sources.minicode.kinds.kind import Kind
from wmtp.data.sources.minicode.kinds.parts import (
    Part,
    changes,
    either,
    mixtures,
    named,
    properties,
    relations,
    totals,
)

LISTS = ("xs", "nums", "items", "values")
EDGES: tuple[list[int], ...] = ([], [3], [-4, -4, -1], [2, 2, 5, 2, 0])

Function = Callable[..., Any]


def number_list(rng: random.Random, near: Sequence[int], longest: int = 10) -> list[int]:
    """Return a list with signs, repeats and the numbers that the words mention."""
    pool = [*range(-7, 14), *near, *near]
    few = rng.sample(pool, 4) if rng.random() < 0.3 else pool
    return rng.choices(few, k=rng.randint(4, longest))


_kind = partial(Kind, level=1, variables=LISTS, edges=EDGES, draw=number_list)


def kinds(largest: int) -> tuple[Kind, ...]:
    """Return the kinds of level 1."""
    return tuple(make(largest) for make in (_total, _choice, _neighbours, _best, _streak))


def _total(largest: int) -> Kind:
    def meaning(xs: list[int], total: Function, f: Function, p: Function) -> Any:
        return total(list(map(f, filter(p, xs))))

    return _kind(
        name="total",
        slots={"total": totals(), "f": changes(largest), "p": either(properties(largest))},
        phrasings=(
            "Return <total> of <f x> over all elements x that are <p>.",
            "For every element x of <v> that is <p>, take <f x>. Return <total> of these.",
            "Of the elements x that are <p>, return <total> of <f x>.",
        ),
        meaning=meaning,
        styles=(
            """
            result = <total:start>
            for x in <v>:
                if <p x>:
                    value = <f x>
                    <total:step value; result>
            return result
            """,
            """
            chosen = [<f x> for x in <v> if <p x>]
            return <total chosen>
            """,
            """
            chosen = []
            for x in <v>:
                if not (<p x>):
                    continue
                chosen.append(<f x>)
            return <total chosen>
            """,
        ),
    )


def _choice(largest: int) -> Kind:
    def meaning(xs: list[int], p: Function, f: Function, g: Function, total: Function) -> Any:
        return total([(f, g)[not p(x)](x) for x in xs])

    change = changes(largest)
    return _kind(
        name="choice",
        slots={"p": properties(largest), "f": change, "g": change, "total": totals()},
        phrasings=(
            "Return <total> of <f x> for elements x that are <p> and <g x> for all others.",
            "Replace each element x by <f x> if it is <p>, else by <g x>. Return <total>.",
        ),
        meaning=meaning,
        styles=(
            """
            changed = [<f x> if <p x> else <g x> for x in <v>]
            return <total changed>
            """,
            """
            result = <total:start>
            for x in <v>:
                if <p x>:
                    value = <f x>
                else:
                    value = <g x>
                <total:step value; result>
            return result
            """,
            """
            for i, x in enumerate(<v>):
                <v>[i] = <f x> if <p x> else <g x>
            return <total <v>>
            """,
        ),
    )


def _neighbours(largest: int) -> Kind:
    def meaning(xs: list[int], p: Function, rel: Function, mix: Function, total: Function) -> Any:
        found = [pair for pair in pairwise(xs) if rel(*pair)]
        return total([mix(x, y) for x, y in found if p(x)])

    return _kind(
        name="neighbours",
        slots={
            "p": properties(largest),
            "rel": relations(largest),
            "mix": mixtures(largest),
            "total": totals(),
        },
        phrasings=(
            "Return <total> of <mix x; y> over neighbours x, y in <v> where x is <p> and <rel x; y>.",
            "For every element x that is <p> and the next one, y: if <rel x; y>, take <mix x; y>. "
            "Return <total> of what was taken.",
        ),
        meaning=meaning,
        styles=(
            """
            found = [<mix a; b> for a, b in zip(<v>, <v>[1:]) if <p a> and <rel a; b>]
            return <total found>
            """,
            """
            result = <total:start>
            for i in range(len(<v>) - 1):
                a, b = <v>[i], <v>[i + 1]
                if <p a> and <rel a; b>:
                    value = <mix a; b>
                    <total:step value; result>
            return result
            """,
            """
            found = []
            last = None
            for x in <v>:
                if last is not None and <p last> and <rel last; x>:
                    found.append(<mix last; x>)
                last = x
            return <total found>
            """,
        ),
    )


def _best(largest: int) -> Kind:
    def meaning(xs: list[int], way: Function, f: Function, p: Function, none: Any) -> Any:
        return way(filter(p, xs), key=f, default=none)

    ways = (
        Part("largest", "max", max, {"better": ">"}),
        Part("smallest", "min", min, {"better": "<"}),
    )
    return _kind(
        name="best",
        slots={
            "way": ways,
            "f": changes(largest),
            "p": either(properties(largest)),
            "none": named({"0": 0, "None": None}),
        },
        phrasings=(
            "Of the elements x that are <p>, return the one with the <way> value of <f x>, the first "
            "of several; <none> if there is none.",
            "Find the element x that is <p> and for which <f x> is <way>. The first one wins a tie. "
            "Without any, return <none>.",
        ),
        meaning=meaning,
        styles=(
            """
            fitting = [x for x in <v> if <p x>]
            return <way>(fitting, key=lambda x: <f x>, default=<none>)
            """,
            """
            best = <none>
            record = None
            for x in <v>:
                if <p x>:
                    value = <f x>
                    if record is None or value <way:better> record:
                        best, record = x, value
            return best
            """,
            """
            fitting = [x for x in <v> if <p x>]
            if not fitting:
                return <none>
            record = <way>(<f x> for x in fitting)
            for x in fitting:
                if <f x> == record:
                    return x
            """,
        ),
    )


def _streak(largest: int) -> Kind:
    def meaning(xs: list[int], p: Function, f: Function, way: Function) -> int:
        runs = [len(list(run)) for holds, run in groupby(xs, lambda x: p(f(x))) if holds]
        return way(runs) if runs else 0

    ways = (
        Part("longest", "max(x, default=0)", max),
        Part("shortest", "min(x, default=0)", min),
        Part("first", "(x or [0])[0]", lambda runs: runs[0]),
        Part("last", "(x or [0])[-1]", lambda runs: runs[-1]),
    )
    return _kind(
        name="streak",
        slots={"p": either(properties(largest)), "f": changes(largest), "way": ways},
        phrasings=(
            "Take <f x> for every element x. Return how long the <way> run of such values that are "
            "<p> is, or 0 if there is none.",
            "Return the length of the <way> stretch of elements x for which <f x> is <p>, or 0.",
        ),
        meaning=meaning,
        styles=(
            """
            runs = []
            run = 0
            for x in <v>:
                value = <f x>
                if <p value>:
                    run += 1
                elif run:
                    runs.append(run)
                    run = 0
            if run:
                runs.append(run)
            return <way runs>
            """,
            """
            values = [<f x> for x in <v>]
            marks = "".join("#" if <p value> else " " for value in values)
            runs = [len(run) for run in marks.split()]
            return <way runs>
            """,
            """
            runs = [0]
            for x in <v>:
                value = <f x>
                if <p value>:
                    runs[-1] += 1
                else:
                    runs.append(0)
            runs = [run for run in runs if run]
            return <way runs>
            """,
        ),
    )
