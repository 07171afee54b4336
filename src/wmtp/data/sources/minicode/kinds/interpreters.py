"""Level 5, continued: interpreters of small languages."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

from wmtp.data.sources.minicode.kinds.kind import Kind
from wmtp.data.sources.minicode.kinds.parts import Part, changes, mixtures, named, properties

Function = Callable[..., Any]
_kind = partial(Kind, level=5)


def postfix_words(rng: random.Random, near: Sequence[int]) -> str:
    """Return words for the stack machine, numbers first."""
    numbers = [*range(-3, 8), *near]
    start = [rng.choice(numbers) for _ in range(rng.randint(1, 4))]
    rest = [rng.choice((*"aabbccd", rng.choice(numbers))) for _ in range(rng.randint(4, 11))]
    return " ".join(map(str, start + rest))


def postfix(largest: int) -> Kind:
    """Return the kind that runs a stack machine."""

    def meaning(
        text: str, a: Function, b: Function, f: Function, p: Function, end: Function
    ) -> int:
        def step(stack: tuple[int, ...], word: str) -> tuple[int, ...]:
            if word in ("a", "b"):
                of = {"a": a, "b": b}[word]
                return stack if len(stack) < 2 else (*stack[:-2], of(*stack[-2:]))
            if word in ("c", "d"):
                more = (f(stack[-1]),) if stack and word == "c" else stack[-1:]
                keep = stack if word == "d" else stack[:-1]
                return (*keep, *more) if word == "c" or (stack and p(stack[-1])) else stack
            return (*stack, int(word))

        start: tuple[int, ...] = ()
        return end(reduce(step, text.split(), start))

    mix = mixtures(largest)
    ends = (
        Part("the top (0 if it is empty)", "x[-1] if x else 0", lambda s: s[-1] if s else 0),
        Part("the sum of the stack", "sum(x)", sum),
        Part("the largest number on it (0 if it is empty)", "max(x, default=0)", _largest),
    )
    return _kind(
        name="postfix",
        variables=("s", "code", "program"),
        slots={
            "a": mix,
            "b": mix,
            "f": changes(largest),
            "p": properties(largest),
            "end": ends,
        },
        phrasings=(
            "Run the words of <v> on a stack: a number is pushed; a takes y, then x and pushes <a x; y>"
            "; b does it with <b x; y>; c replaces the top x by <f x>; d pushes the top once more "
            "if it is <p>. A word without enough numbers on the stack does nothing. Return <end>.",
            "<v> is a program for a stack, words with spaces between. Numbers are pushed. With y on "
            "top and x below, a replaces both by <a x; y> and b by <b x; y>. With x on top, c "
            "replaces it by <f x> and d copies it if it is <p>. What lacks operands is skipped. "
            "Return <end>.",
        ),
        meaning=meaning,
        styles=_POSTFIX,
        edges=("", "3", "-2 d a", "5 1 4 b c"),
        draw=postfix_words,
    )


def _largest(stack: Sequence[int]) -> int:
    return sorted(stack)[-1] if stack else 0


_POSTFIX = (
    """
    stack = []
    for word in <v>.split():
        if word in "ab":
            if len(stack) >= 2:
                y, x = stack.pop(), stack.pop()
                stack.append(<a x; y> if word == "a" else <b x; y>)
        elif word in "cd":
            if not stack:
                continue
            x = stack[-1]
            if word == "c":
                stack[-1] = <f x>
            elif <p x>:
                stack.append(x)
        else:
            stack.append(int(word))
    return <end stack>
    """,
    """
    def run(words, stack):
        if not words:
            return stack
        word, rest = words[0], words[1:]
        if word == "a" and len(stack) > 1:
            x, y = stack[-2:]
            stack = stack[:-2] + [<a x; y>]
        elif word == "b" and len(stack) > 1:
            x, y = stack[-2:]
            stack = stack[:-2] + [<b x; y>]
        elif word == "c" and stack:
            x = stack[-1]
            stack = stack[:-1] + [<f x>]
        elif word == "d" and stack:
            x = stack[-1]
            stack = stack + [x] if <p x> else stack
        elif word not in "abcd":
            stack = stack + [int(word)]
        return run(rest, stack)
    stack = run(<v>.split(), [])
    return <end stack>
    """,
    """
    steps = {
        "a": (2, lambda x, y: [<a x; y>]),
        "b": (2, lambda x, y: [<b x; y>]),
        "c": (1, lambda x: [<f x>]),
        "d": (1, lambda x: [x, x] if <p x> else [x]),
    }
    stack = []
    for word in <v>.split():
        if word in steps:
            n, step = steps[word]
            if len(stack) >= n:
                stack[-n:] = step(*stack[-n:])
        else:
            stack.append(int(word))
    return <end stack>
    """,
)


def instructions(rng: random.Random, near: Sequence[int]) -> list[str]:
    """Return instructions; about a fifth of them may skip others."""
    numbers = [*range(-3, 8), *near]
    known = ("a {}", "a {}", "b", "c", "d {}", "e")
    return [
        one.format(rng.choice((1, 2)) if one[0] == "d" else rng.choice(numbers))
        for one in rng.choices(known, k=rng.randint(4, 12))
    ]


def assembly(largest: int) -> Kind:
    """Return the kind that runs a small assembly language."""

    def meaning(
        code: list[str], s: int, a: Function, f: Function, p: Function, e: Function, end: Function
    ) -> Any:
        x, y, skip = s, 0, 0
        for name, *number in map(str.split, code):
            if skip:
                skip -= 1
                continue
            n = int(number[0]) if number else 0
            x, y, skip = {
                "a": (a(x, n), y, 0),
                "b": (f(x), y, 0),
                "c": (y, x, 0),
                "d": (x, y, n if p(x) else 0),
                "e": (x, e(x, y), 0),
            }[name]
        return end(x, y)

    mix = mixtures(largest)
    ends = (
        Part("x", "x", lambda x, y: x),
        Part("y", "y", lambda x, y: y),
        Part("the tuple of x and y", "(x, y)", lambda *both: both),
        Part("the larger of x and y", "max(x, y)", lambda *both: max(both)),
    )
    return _kind(
        name="assembly",
        variables=("code", "program", "lines"),
        slots={
            "s": named({str(k): k for k in range(largest + 1)}),
            "a": mix,
            "f": changes(largest),
            "p": properties(largest),
            "e": mix,
            "end": ends,
        },
        phrasings=(
            "Run the instructions <v> one after another, with x = <s> and y = 0 at first: `a n` sets "
            "x to <a x; n>, `b` sets x to <f x>, `c` swaps x and y, `d n` skips the next n "
            "instructions if x is <p>, `e` sets y to <e x; y>. Return <end>.",
            "<v> is a list of instructions for a machine with registers x (<s> at the start) and y "
            "(0). `a n`: x becomes <a x; n>. `b`: x becomes <f x>. `c`: x and y change places. "
            "`d n`: if x is <p>, leave out the next n. `e`: y becomes <e x; y>. Return <end>.",
        ),
        meaning=meaning,
        styles=_ASSEMBLY,
        edges=([], ["a 3"], ["c", "b", "e"], ["a -2", "d 1", "b", "e"]),
        draw=instructions,
    )


_ASSEMBLY = (
    """
    x, y = <s>, 0
    skip = 0
    for line in <v>:
        name, n = line[0], int(line[2:] or 0)
        if skip > 0:
            skip -= 1
        elif name == "a":
            x = <a x; n>
        elif name == "b":
            x = <f x>
        elif name == "c":
            x, y = y, x
        elif name == "d":
            if <p x>:
                skip = n
        else:
            y = <e x; y>
    return <end x; y>
    """,
    """
    x, y, i = <s>, 0, 0
    while i < len(<v>):
        parts = <v>[i].split()
        i += 1
        if parts[0] == "a":
            n = int(parts[1])
            x = <a x; n>
        if parts[0] == "b":
            x = <f x>
        if parts[0] == "c":
            x, y = y, x
        if parts[0] == "d" and (<p x>):
            i += int(parts[1])
        if parts[0] == "e":
            y = <e x; y>
    return <end x; y>
    """,
    """
    def run(lines, x, y):
        if not lines:
            return <end x; y>
        name, n, rest = lines[0][0], int(lines[0][2:] or 0), lines[1:]
        if name == "a":
            return run(rest, <a x; n>, y)
        if name == "b":
            return run(rest, <f x>, y)
        if name == "c":
            return run(rest, y, x)
        if name == "d":
            return run(rest[n:] if <p x> else rest, x, y)
        return run(rest, x, <e x; y>)
    return run(<v>, <s>, 0)
    """,
)
