"""Level 5: state machines and tokenizers over characters."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, groupby
from typing import Any

from wmtp.data.sources.minicode.kinds.calculator import calculator
from wmtp.data.sources.minicode.kinds.interpreters import assembly, postfix
from wmtp.data.sources.minicode.kinds.kind import Kind
from wmtp.data.sources.minicode.kinds.parts import (
    PRINTABLE,
    Part,
    characters,
    either,
    named,
)

Function = Callable[..., Any]
_kind = partial(Kind, level=5)


def kinds(largest: int) -> tuple[Kind, ...]:
    """Return the kinds of level 5."""
    makers = (calculator, postfix, assembly, _automaton, _tokens)
    return tuple(make(largest) for make in makers)


def _automaton(largest: int) -> Kind:
    def meaning(text: str, c: Function, d: Function, end: Function, **moves: int) -> Any:
        def step(state: int, x: str) -> int:
            return moves[f"c{state}"] if c(x) else moves[f"d{state}"] if d(x) else state

        return end(list(accumulate(text, step, initial=0)))

    state = named({str(k): k for k in range(3)})
    ends = (
        Part("the last state", "x[-1]", lambda states: states[-1]),
        Part("how often it was in state 2", "x.count(2)", lambda s: sum(k == 2 for k in s)),
        Part("the list of all states, from the first 0 on", "x", list),
        Part("whether it ends in state 1", "x[-1] == 1", lambda states: states[-1:] == [1]),
    )
    return _kind(
        name="automaton",
        variables=("s", "text", "tape"),
        slots={
            **dict.fromkeys(("c", "d"), characters()),
            **dict.fromkeys(("c0", "c1", "c2", "d0", "d1", "d2"), state),
            "end": ends,
        },
        phrasings=(
            "A machine starts in state 0 and reads the characters of <v>. Those that are <c> take "
            "it from state 0, 1, 2 to <c0>, <c1>, <c2>; others that are <d> take it to <d0>, <d1>, "
            "<d2>; the rest change nothing. Return <end>.",
            "Read <v> with a machine of three states that starts in 0. State 0 goes to <c0> on "
            "characters that are <c>, else to <d0> on those that are <d>; state 1 to <c1> and "
            "<d1>; state 2 to <c2> and <d2>. Other characters keep it. Return <end>.",
        ),
        meaning=meaning,
        styles=_AUTOMATON,
        edges=("", "a", "1B-", "sT0 eb"),
        draw=lambda rng, near: line(rng, near, 16),
    )


_AUTOMATON = (
    """
    states = [0]
    for x in <v>:
        state = states[-1]
        if <c x>:
            state = [<c0>, <c1>, <c2>][state]
        elif <d x>:
            state = [<d0>, <d1>, <d2>][state]
        states.append(state)
    return <end states>
    """,
    """
    moves = {
        (0, "c"): <c0>, (1, "c"): <c1>, (2, "c"): <c2>,
        (0, "d"): <d0>, (1, "d"): <d1>, (2, "d"): <d2>,
    }
    state = 0
    states = [state]
    for x in <v>:
        kind = "c" if <c x> else "d" if <d x> else ""
        state = moves.get((state, kind), state)
        states.append(state)
    return <end states>
    """,
    """
    state = 0
    states = [0]
    for x in <v>:
        first, second = <c x>, <d x>
        if first or second:
            if state == 0:
                state = <c0> if first else <d0>
            elif state == 1:
                state = <c1> if first else <d1>
            else:
                state = <c2> if first else <d2>
        states.append(state)
    return <end states>
    """,
)


def line(rng: random.Random, near: Sequence[int], longest: int = 9) -> str:
    """Return a line of letters, digits and signs with repeats."""
    pool = "aabeestTxyABES0129 -+*."
    return "".join(rng.choice(pool) * rng.choice((1, 1, 2)) for _ in range(rng.randint(4, longest)))


def _tokens(largest: int) -> Kind:
    def meaning(text: str, c: Function, d: Function, form: Function, skip: str) -> Any:
        marks = [
            "skip" if x in skip else "c" if c(x) else "d" if d(x) else str(i)
            for i, x in enumerate(text)
        ]
        found = [
            (mark if mark in "cd" else "other", "".join(x for _, x in run))
            for mark, run in groupby(zip(marks, text, strict=True), lambda pair: pair[0])
            if mark != "skip"
        ]
        return form(found)

    forms = (
        Part("the list of tuples of kind and text", "x", list),
        Part("the list of texts", "[text for _, text in x]", lambda found: [t[1] for t in found]),
        Part(
            "the list of tuples of kind and length",
            "[(kind, len(text)) for kind, text in x]",
            lambda found: [(kind, len(t)) for kind, t in found],
        ),
        Part(
            "the last text of each kind, as a dictionary from kinds",
            "{kind: text for kind, text in x}",
            dict,
        ),
    )
    skips = (
        Part("Spaces", '" "', " "),
        Part("Spaces and dots", '" ."', " ."),
        Part("Minus signs", '"-"', "-"),
    )
    one, both = characters(), either(characters(), PRINTABLE)
    return _kind(
        name="tokens",
        variables=("s", "text", "line"),
        slots={"c": both, "d": one, "form": forms, "skip": skips},
        phrasings=(
            'Split <v> into tokens: a run of characters that are <c> is of kind "c", a run of others '
            'that are <d> of kind "d", and each character left is a token of kind "other". <skip> '
            "end a token and are dropped. Return <form>.",
            'Tokenize <v>. Longest stretches of <c> have kind "c"; longest stretches of <d> that '
            'are not among these have kind "d"; further characters have kind "other", one by one. '
            "<skip> only separate. Return <form>.",
        ),
        meaning=meaning,
        styles=_TOKENS,
        edges=("", "a", "ab1-+ e0", "..TTs  22x"),
        draw=line,
    )


_TOKENS = (
    """
    found = []
    last = ""
    for x in <v>:
        kind = "c" if <c x> else "d" if <d x> else "other"
        if x in <skip>:
            kind = ""
        elif kind == last and kind != "other":
            found[-1] = (kind, found[-1][1] + x)
        else:
            found.append((kind, x))
        last = kind
    return <form found>
    """,
    """
    found = []
    i = 0
    while i < len(<v>):
        start = i
        while i < len(<v>):
            x = <v>[i]
            if x in <skip> or not (<c x>):
                break
            i += 1
        kind = "c"
        if i == start:
            kind = "d"
            while i < len(<v>):
                x = <v>[i]
                if x in <skip> or <c x> or not (<d x>):
                    break
                i += 1
        if i == start:
            kind = "other"
            i += 1
        if <v>[start] not in <skip>:
            found.append((kind, <v>[start:i]))
    return <form found>
    """,
    """
    def kind_of(x):
        if x in <skip>:
            return ""
        if <c x>:
            return "c"
        return "d" if <d x> else "other"
    found = []
    piece = ""
    for i, x in enumerate(<v>):
        kind = kind_of(x)
        piece += x
        following = kind_of(<v>[i + 1]) if i + 1 < len(<v>) else ""
        if following != kind or kind == "other":
            if kind:
                found.append((kind, piece))
            piece = ""
    return <form found>
    """,
)
