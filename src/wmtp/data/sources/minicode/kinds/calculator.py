"""Level 5, continued: a calculator with operators whose meaning and order is part of the problem."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from wmtp.data.sources.minicode.kinds.kind import Kind
from wmtp.data.sources.minicode.kinds.parts import (
    Part,
    changes,
    mixtures,
)

Function = Callable[..., Any]
_kind = partial(Kind, level=5)


def expression(rng: random.Random, near: Sequence[int], depth: int = 3) -> str:
    """Return a sum of one-digit numbers, `!`, parentheses and the operators & and |."""
    if not depth or rng.random() < 0.25:
        return str(rng.randint(0, 9))
    inner = partial(expression, rng, near, depth - 1)
    if rng.random() < 0.2:
        return "!" + rng.choice((str(rng.randint(0, 9)), f"({inner()})"))
    chain = inner() + "".join(rng.choice("&|") + inner() for _ in range(rng.randint(1, 2)))
    return f"({chain})" if rng.random() < 0.3 else chain


_FORWARDS = {
    "place": "-1",
    "until": ">=",
    "take": "x, y = values.pop(0), values.pop(0)",
    "put": "values.insert(0, z)",
}
_BACKWARDS = {
    "place": "0",
    "until": ">",
    "take": "y, x = values.pop(), values.pop()",
    "put": "values.append(z)",
}


def calculator(largest: int) -> Kind:
    """Return the kind that evaluates expressions."""
    mix = mixtures(largest)
    signs = (
        Part("&", '"&"', "&", {"other": '"|"'}),
        Part("|", '"|"', "|", {"other": '"&"'}),
    )
    orders = (
        Part("left to right", "left", "left", _FORWARDS),
        Part("right to left", "right", "right", _BACKWARDS),
    )
    return _kind(
        name="calculator",
        variables=("s", "text", "line"),
        slots={"sign": signs, "tight": mix, "loose": mix, "f": changes(largest), "order": orders},
        phrasings=(
            "Evaluate the expression <v> of one-digit numbers, parentheses, ! before a number or "
            "parenthesis, and & and | between values. <sign> binds tighter: for values x and y it "
            "gives <tight x; y>, the other one <loose x; y>; !x is <f x>. Operators of one kind are "
            "applied <order>.",
            "Write a calculator for texts like 1&!(2|3), numbers having one digit. !x means <f x> and "
            "comes first, then <sign>, which makes <tight x; y> of x and y, then the other of & "
            "and |, which makes <loose x; y>. Equal operators go <order>. Return the value of <v>.",
        ),
        meaning=_calculate,
        styles=_CALCULATOR,
        edges=("7", "2&3|4&1", "1|8&2|3", "!(4|1&2)&(5)"),
        draw=expression,
    )


def _calculate(
    text: str, sign: str, tight: Function, loose: Function, f: Function, order: str
) -> Any:
    items: list[Any] = [int(c) if c.isdigit() else c for c in f"({text})"]
    while len(items) > 1:
        stop = items.index(")")
        start = max(i for i in range(stop) if items[i] == "(")
        inner = items[start + 1 : stop]
        for i in range(len(inner) - 1, -1, -1):
            if inner[i] == "!":
                inner[i : i + 2] = [f(inner[i + 1])]
        for chosen, of in ((sign, tight), ("&|".replace(sign, ""), loose)):
            _merge(inner, chosen, of, order == "left")
        items[start : stop + 1] = inner
    return items[0]


def _merge(items: list[Any], sign: str, of: Function, forwards: bool) -> None:
    """Replace value, `sign`, value by what they make, until there are none."""
    while sign in items:
        places = [i for i, item in enumerate(items) if item == sign]
        i = places[0 if forwards else -1]
        items[i - 1 : i + 2] = [of(items[i - 1], items[i + 1])]


_CALCULATOR = (
    """
    def value(text):
        for sign in (<sign:other>, <sign>):
            places = [
                i for i, c in enumerate(text)
                if c == sign and text[:i].count("(") == text[:i].count(")")
            ]
            if places:
                i = places[<order:place>]
                x, y = value(text[:i]), value(text[i + 1:])
                return <tight x; y> if sign == <sign> else <loose x; y>
        if text[0] == "!":
            x = value(text[1:])
            return <f x>
        return value(text[1:-1]) if text[0] == "(" else int(text)
    return value(<v>)
    """,
    """
    values, signs = [], []
    ranks = {"(": 0, <sign:other>: 1, <sign>: 2, "!": 3}
    def apply():
        sign, y = signs.pop(), values.pop()
        if sign == "!":
            values.append(<f y>)
            return
        x = values.pop()
        values.append(<tight x; y> if sign == <sign> else <loose x; y>)
    for c in <v>:
        if c.isdigit():
            values.append(int(c))
        elif c in "(!":
            signs.append(c)
        else:
            rank = ranks.get(c, 0)
            while signs and signs[-1] != "(" and ranks[signs[-1]] <order:until> rank:
                apply()
            if c == ")":
                signs.pop()
            else:
                signs.append(c)
    while signs:
        apply()
    return values[0]
    """,
    """
    i = 0
    def factor():
        nonlocal i
        c = <v>[i]
        i += 1
        if c == "!":
            x = factor()
            return <f x>
        if c == "(":
            x = chain(<sign:other>)
            i += 1
            return x
        return int(c)
    def chain(sign):
        nonlocal i
        values = [factor() if sign == <sign> else chain(<sign>)]
        while i < len(<v>) and <v>[i] == sign:
            i += 1
            values.append(factor() if sign == <sign> else chain(<sign>))
        while len(values) > 1:
            <order:take>
            z = <tight x; y> if sign == <sign> else <loose x; y>
            <order:put>
        return values[0]
    return chain(<sign:other>)
    """,
)
