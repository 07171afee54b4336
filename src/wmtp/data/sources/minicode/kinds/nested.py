"""Level 3: nested loops and dictionaries over lists."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
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
from wmtp.data.sources.minicode.kinds.reductions import EDGES, LISTS, number_list
from wmtp.data.sources.minicode.kinds.tables import index, matrix

Function = Callable[..., Any]

_on_lists = partial(Kind, level=3, variables=LISTS, edges=EDGES, draw=number_list)


def kinds(largest: int) -> tuple[Kind, ...]:
    """Return the kinds of level 3."""
    return tuple(make(largest) for make in (_pairs, _groups, _mode, index, matrix))


def _pairs(largest: int) -> Kind:
    def meaning(xs: list[int], p: Function, rel: Function, mix: Function, total: Function) -> Any:
        found = [pair for pair in combinations(xs, 2) if rel(*pair)]
        return total([mix(*pair) for pair in found if p(pair[0])])

    return _on_lists(
        name="pairs",
        slots={
            "p": properties(largest),
            "rel": relations(largest),
            "mix": mixtures(largest),
            "total": totals(),
        },
        phrasings=(
            "For all pairs of an element x that is <p> and a later element y: if <rel x; y>, take "
            "<mix x; y>. Return <total> of these.",
            "Return <total> of <mix x; y> over all x, y in <v>, x before y, where x is <p> and "
            "<rel x; y>.",
        ),
        meaning=meaning,
        styles=(
            """
            result = <total:start>
            for i in range(len(<v>)):
                for j in range(i + 1, len(<v>)):
                    a, b = <v>[i], <v>[j]
                    if <p a> and <rel a; b>:
                        value = <mix a; b>
                        <total:step value; result>
            return result
            """,
            """
            found = [
                <mix a; b>
                for i, a in enumerate(<v>)
                if <p a>
                for b in <v>[i + 1:]
                if <rel a; b>
            ]
            return <total found>
            """,
            """
            found = []
            for i, a in enumerate(<v>):
                if not <p a>:
                    continue
                for b in <v>[i + 1:]:
                    if <rel a; b>:
                        found.append(<mix a; b>)
            return <total found>
            """,
        ),
    )


def _groups(largest: int) -> Kind:
    def meaning(xs: list[int], key: Function, p: Function, f: Function, total: Function) -> Any:
        keys = {key(x) for x in xs if p(x)}
        return {k: total([f(x) for x in xs if p(x) and key(x) == k]) for k in keys}

    change = changes(largest)
    return _on_lists(
        name="groups",
        slots={"key": change, "p": properties(largest), "f": change, "total": totals()},
        phrasings=(
            "Group the elements x that are <p> by <key x>. Return a dictionary from each of these "
            "keys to <total> of <f x> over its group.",
            "Return a dictionary: for the elements x that are <p>, <key x> is the key and <total> "
            "of <f x> over all x with this key the value.",
        ),
        meaning=meaning,
        styles=(
            """
            groups = {}
            for x in <v>:
                if <p x>:
                    groups.setdefault(<key x>, []).append(<f x>)
            return {key: <total group> for key, group in groups.items()}
            """,
            """
            result = {}
            for x in <v>:
                if not <p x>:
                    continue
                key = <key x>
                if key not in result:
                    result[key] = <total:start>
                value = <f x>
                <total:step value; result[key]>
            return result
            """,
            """
            result = {}
            chosen = [x for x in <v> if <p x>]
            for key in {<key x> for x in chosen}:
                group = [<f x> for x in chosen if <key x> == key]
                result[key] = <total group>
            return result
            """,
        ),
    )


def repetitive_list(rng: random.Random, near: Sequence[int]) -> list[int]:
    """Return a list of a few numbers, most of them equally often."""
    few = rng.sample([*range(-7, 14), *near], rng.randint(3, 5))
    found = few * rng.randint(1, 3) + rng.choices(few, k=rng.randint(0, 1))
    rng.shuffle(found)
    return found


def _mode(largest: int) -> Kind:
    def meaning(xs: list[int], f: Function, p: Function, tie: Function, often: int) -> Any:
        found = [f(x) for x in xs if p(x)]
        counts = sorted({found.count(value) for value in found}, reverse=True)
        if not counts or counts[0] < often:
            return None
        return tie([value for value in found if found.count(value) == counts[0]])

    ties = (
        Part("smallest", "min(x)", min),
        Part("largest", "max(x)", max),
        Part("first", "x[0]", lambda values: values[0]),
    )
    often = named({"once": 1, "twice": 2, "three times": 3})
    return Kind(
        name="mode",
        level=3,
        variables=LISTS,
        edges=EDGES,
        draw=repetitive_list,
        slots={
            "f": changes(largest),
            "p": either(properties(largest)),
            "tie": ties,
            "often": often,
        },
        phrasings=(
            "Take <f x> for the elements x that are <p>. Return the most frequent of these values, "
            "the <tie> of several; None unless it is there at least <often>.",
            "Which value has <f x> most often, over the elements x that are <p>? The <tie> one wins "
            "a tie; a value found less than <often> does not count and gives None.",
        ),
        meaning=meaning,
        styles=_MODE,
    )


_MODE = (
    """
    counts = {}
    for x in <v>:
        if <p x>:
            value = <f x>
            counts[value] = counts.get(value, 0) + 1
    most = max(counts.values(), default=0)
    if most < <often>:
        return None
    tied = [value for value in counts if counts[value] == most]
    return <tie tied>
    """,
    """
    found = [<f x> for x in <v> if <p x>]
    most = max([found.count(value) for value in found], default=0)
    if most < <often>:
        return None
    tied = [value for value in found if found.count(value) == most]
    return <tie tied>
    """,
    """
    tied, most = [], 0
    found = [<f x> for x in <v> if <p x>]
    for value in found:
        count = 0
        for other in found:
            if other == value:
                count += 1
        if count > most:
            tied, most = [], count
        if count == most:
            tied.append(value)
    return <tie tied> if most >= <often> else None
    """,
)
