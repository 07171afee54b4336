"""Level 3, continued: words and matrices."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from wmtp.data.sources.minicode.kinds.kind import Kind
from wmtp.data.sources.minicode.kinds.parts import (
    Part,
    changes,
    characters,
    either,
    named,
    properties,
    totals,
)

Function = Callable[..., Any]


def words(rng: random.Random, near: Sequence[int]) -> list[str]:
    """Return words that share characters; some are empty or repeated."""
    pool = "aabeestt1029ABES-+ "
    found = ["".join(rng.choices(pool, k=rng.randint(0, 5))) for _ in range(rng.randint(2, 5))]
    return [*found, rng.choice(found)]


def index(largest: int) -> Kind:
    """Return the kind that makes an inverted index of words."""

    def meaning(words: list[str], c: Function, p: Function, what: Function, often: int) -> Any:
        found: dict[str, list[Any]] = {}
        for character in filter(c, dict.fromkeys("".join(words))):
            places = [i for i, word in enumerate(words) if character in word and p(len(word))]
            if len(places) >= often:
                found[character] = [what(i, words[i]) for i in places]
        return found

    what = (
        Part("places", "x", lambda place, word: place),
        Part("lengths", "len(y)", lambda place, word: len(word)),
        Part("first characters", "y[0]", lambda place, word: word[:1]),
        Part("last characters", "y[-1]", lambda place, word: word[-1:]),
        Part("reversals", "y[::-1]", lambda place, word: "".join(reversed(word))),
    )
    often = named({"one": 1, "two": 2, "three": 3})
    return Kind(
        name="index",
        level=3,
        variables=("words", "texts", "lines"),
        slots={"c": characters(), "p": either(properties(largest)), "what": what, "often": often},
        phrasings=(
            "Map each character of the kind <c> to the list of the <what>, in order, of those words "
            "that contain it and whose length is <p>. Leave out characters found in fewer than "
            "<often> of them.",
            "Return a dictionary from characters (<c> only) to the <what> of the words with a length "
            "that is <p> in which they occur; a character needs <often> or more such words.",
        ),
        meaning=meaning,
        styles=_INDEX,
        edges=([], [""], ["a", "ba", "a1", "B-"], ["seat", "tE2", "seat", "+0s"]),
        draw=words,
    )


_INDEX = (
    """
    index = {}
    for i, word in enumerate(<v>):
        n = len(word)
        if <p n>:
            for c in dict.fromkeys(word):
                if <c c>:
                    index.setdefault(c, []).append(<what i; word>)
    return {c: found for c, found in index.items() if len(found) >= <often>}
    """,
    """
    result = {}
    for c in set("".join(<v>)):
        if not (<c c>):
            continue
        found = []
        for i, word in enumerate(<v>):
            n = len(word)
            if c in word and (<p n>):
                found.append(<what i; word>)
        if len(found) >= <often>:
            result[c] = found
    return result
    """,
    """
    sizes = [len(word) for word in <v>]
    known = [i for i, n in enumerate(sizes) if <p n>]
    index = {}
    for c in set("".join(<v>)):
        if <c c>:
            index[c] = [<what i; <v>[i]> for i in known if c in <v>[i]]
    return {c: index[c] for c in index if len(index[c]) >= <often>}
    """,
)


def rows(rng: random.Random, near: Sequence[int]) -> list[list[int]]:
    """Return one to four rows of one length."""
    width = rng.randint(1, 4)
    return [rng.choices([*range(-6, 12), *near], k=width) for _ in range(rng.randint(1, 4))]


def matrix(largest: int) -> Kind:
    """Return the kind that sums up the rows or columns of a matrix."""

    def meaning(
        m: list[list[int]], lines: Function, p: Function, f: Function, total: Function
    ) -> Any:
        return [total([f(x) for x in line if p(x)]) for line in lines(m)]

    lines = (
        Part("row", "x", lambda m: m),
        Part(
            "column",
            "list(zip(*x))",
            lambda m: [[row[i] for row in m] for i in range(len(m[:1] and m[0]))],
        ),
        Part("row, from the last", "x[::-1]", lambda m: list(reversed(m))),
        Part(
            "column, from the last",
            "list(zip(*x))[::-1]",
            lambda m: [[row[-i - 1] for row in m] for i in range(len(m[:1] and m[0]))],
        ),
    )
    return Kind(
        name="matrix",
        level=3,
        variables=("rows", "matrix", "m", "grid"),
        slots={"lines": lines, "p": properties(largest), "f": changes(largest), "total": totals()},
        phrasings=(
            "The matrix <v> is a list of rows. Return a list: for each <lines>, <total> of <f x> "
            "over its elements x that are <p>.",
            "For each <lines> of the matrix <v> (a list of rows), take <f x> for the elements x that "
            "are <p>. Return the list with <total> of each.",
        ),
        meaning=meaning,
        styles=_MATRIX,
        edges=([], [[4]], [[1, -2], [3, 0]], [[5, 5, -3], [2, 5, 8]]),
        draw=rows,
    )


_MATRIX = (
    """
    result = []
    for line in <lines <v>>:
        value = <total:start>
        for x in line:
            if <p x>:
                term = <f x>
                <total:step term; value>
        result.append(value)
    return result
    """,
    """
    chosen = [[<f x> for x in line if <p x>] for line in <lines <v>>]
    return [<total line> for line in chosen]
    """,
    """
    result = []
    for line in <lines <v>>:
        chosen = []
        for x in line:
            if <p x>:
                chosen.append(<f x>)
        result.append(<total chosen>)
    return result
    """,
)
