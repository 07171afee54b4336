"""Level 4: recursion on nested lists, trees and numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from wmtp.data.sources.minicode.kinds.kind import Kind
from wmtp.data.sources.minicode.kinds.parts import (
    changes,
    mixtures,
    named,
    properties,
    totals,
)
from wmtp.data.sources.minicode.kinds.stacks import brackets, runs

Function = Callable[..., Any]
_kind = partial(Kind, level=4)


def kinds(largest: int) -> tuple[Kind, ...]:
    """Return the kinds of level 4."""
    return tuple(make(largest) for make in (_deep, _tree, brackets, runs, _recurrence))


def nested_list(rng: random.Random, near: Sequence[int], depth: int = 3) -> list[Any]:
    """Return a list of numbers and further such lists, some of them empty."""
    pool = [*range(-6, 12), *near]
    return [
        nested_list(rng, near, depth - 1) if depth and rng.random() < 0.35 else rng.choice(pool)
        for _ in range(rng.randint(0 if depth < 3 else 2, 4))
    ]


def _deep(largest: int) -> Kind:
    def meaning(xs: Any, p: Function, f: Function, mix: Function, total: Function) -> Any:
        level, depth, found = list(xs), 1, []
        while level:
            found += [mix(f(x), depth) for x in level if not isinstance(x, list) and p(x)]
            level = [x for inner in level if isinstance(inner, list) for x in inner]
            depth += 1
        return total(found)

    return _kind(
        name="deep",
        variables=("xs", "tree", "data", "nested"),
        slots={
            "p": properties(largest),
            "f": changes(largest),
            "mix": mixtures(largest),
            "total": totals(),
        },
        phrasings=(
            "<v> holds numbers and lists of the same kind. For every number x at any depth that is "
            "<p>, let a be <f x> and d the depth, 1 for the outermost list. Return <total> of "
            "<mix a; d>.",
            "Walk through the nested list <v>; its own numbers have depth d = 1. For each number x "
            "that is <p>, with a = <f x>, take <mix a; d>. Return <total> of what was taken.",
        ),
        meaning=meaning,
        styles=_DEEP,
        edges=([], [[]], [4], [-2, [3, [5, -1]], 2]),
        draw=nested_list,
    )


_DEEP = (
    """
    found = []
    def walk(items, depth):
        for x in items:
            if isinstance(x, list):
                walk(x, depth + 1)
            elif <p x>:
                value = <f x>
                found.append(<mix value; depth>)
    walk(<v>, 1)
    return <total found>
    """,
    """
    result = <total:start>
    stack = [(x, 1) for x in <v>]
    while stack:
        x, depth = stack.pop()
        if isinstance(x, list):
            stack.extend([(inner, depth + 1) for inner in x])
        elif <p x>:
            value = <f x>
            term = <mix value; depth>
            <total:step term; result>
    return result
    """,
    """
    def flat(items, depth):
        if not items:
            return []
        x, rest = items[0], flat(items[1:], depth)
        if isinstance(x, list):
            return flat(x, depth + 1) + rest
        return [(x, depth)] + rest
    chosen = [(<f x>, depth) for x, depth in flat(<v>, 1) if <p x>]
    found = [<mix value; depth> for value, depth in chosen]
    return <total found>
    """,
)


def binary_tree(rng: random.Random, near: Sequence[int], depth: int = 4) -> Any:
    """Return (value, left, right) with further such trees or None on both sides."""
    if not depth or (depth < 4 and rng.random() < 0.35):
        return None
    sides = [binary_tree(rng, near, depth - 1) for _ in range(2)]
    return (rng.choice([*range(-5, 9), *near]), *sides)


def _tree(largest: int) -> Kind:
    def meaning(tree: Any, leaf: int, f: Function, sides: Function, mix: Function) -> Any:
        if not tree:
            return leaf
        below = [meaning(side, leaf, f, sides, mix) for side in tree[1:]]
        return mix(f(tree[0]), sides(*below))

    mix = mixtures(largest)
    return _kind(
        name="tree",
        variables=("tree", "root", "t"),
        slots={
            "leaf": named({str(k): k for k in range(-1, largest + 1)}),
            "f": changes(largest),
            "sides": mix,
            "mix": mix,
        },
        phrasings=(
            "A tree is None or a tuple (x, left, right). The value of None is <leaf>. For another "
            "tree, let a and b be the values of left and right, c be <sides a; b> and d be <f x>; "
            "its value is <mix d; c>. Return the value of <v>.",
            "Fold the binary tree <v>, made of (x, left, right) and None. None gives <leaf>. With a "
            "from the left and b from the right, c = <sides a; b> and d = <f x>, a node gives "
            "<mix d; c>.",
        ),
        meaning=meaning,
        styles=_TREE,
        edges=(
            None,
            (3, None, None),
            (-2, (1, None, None), None),
            (4, None, (-3, None, (2, None, None))),
        ),
        draw=binary_tree,
    )


_TREE = (
    """
    def value(tree):
        if tree is None:
            return <leaf>
        x, left, right = tree
        a, b = value(left), value(right)
        c = <sides a; b>
        d = <f x>
        return <mix d; c>
    return value(<v>)
    """,
    """
    results = []
    stack = [(<v>, False)]
    while stack:
        node, ready = stack.pop()
        if node is None:
            results.append(<leaf>)
        elif ready:
            x = node[0]
            b, a = results.pop(), results.pop()
            c = <sides a; b>
            d = <f x>
            results.append(<mix d; c>)
        else:
            stack.extend([(node, True), (node[2], False), (node[1], False)])
    return results[0]
    """,
    """
    def fold(x, left, right):
        a = fold(*left) if left else <leaf>
        b = fold(*right) if right else <leaf>
        c = <sides a; b>
        d = <f x>
        return <mix d; c>
    return fold(*<v>) if <v> else <leaf>
    """,
)


def _recurrence(largest: int) -> Kind:
    def meaning(n: int, a: int, b: int, mix: Function, p: Function, f: Function, m: int) -> int:
        values = [a, b]
        for i in range(2, n + 1):
            value = mix(*values[:-3:-1])
            values.append((f(value) if p(i) else value) % m)
        return values[n]

    start = named({str(k): k for k in range(1, largest + 2)})
    return _kind(
        name="recurrence",
        variables=("n", "k", "number"),
        slots={
            "a": start,
            "b": start,
            "mix": mixtures(largest),
            "p": properties(largest),
            "f": changes(largest),
            "m": named({str(k): k for k in (10, 97, 100, 1000)}),
        },
        phrasings=(
            "A sequence starts with item 0 = <a> and item 1 = <b>. Item i is made of x, the item "
            "before it, and y, the one before that: let z be <mix x; y>; where i is <p> replace z "
            "by <f z>; the item is z modulo <m>. Return item <v>.",
            "Return s(<v>), where s(0) = <a>, s(1) = <b> and s(i) = z modulo <m> with x = s(i - 1), "
            "y = s(i - 2) and z = <mix x; y>, but <f z> instead of z if i is <p>.",
        ),
        meaning=meaning,
        styles=_RECURRENCE,
        edges=(0, 1, 2, 3),
        draw=lambda rng, near: rng.randint(4, 14),
    )


_RECURRENCE = (
    """
    if <v> < 2:
        return [<a>, <b>][<v>]
    y, x = <a>, <b>
    for i in range(2, <v> + 1):
        z = <mix x; y>
        if <p i>:
            z = <f z>
        y, x = x, z % <m>
    return x
    """,
    """
    known = {0: <a>, 1: <b>}
    def item(i):
        if i not in known:
            x, y = item(i - 1), item(i - 2)
            z = <mix x; y>
            known[i] = (<f z> if <p i> else z) % <m>
        return known[i]
    return item(<v>)
    """,
    """
    items = [<a>, <b>]
    while len(items) <= <v>:
        i = len(items)
        x, y = items[-1], items[-2]
        z = <mix x; y>
        if <p i>:
            z = <f z>
        items.append(z % <m>)
    return items[<v>]
    """,
)
