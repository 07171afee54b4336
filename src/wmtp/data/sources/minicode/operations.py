"""What a minicode operation is, and the families that tables of words and code unfold into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Function = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a composition: words, meaning and code.

    phrases: ways to say it; the first is its identity. apply: its meaning, a pure function that has
    a value for every input; the hidden tests come from it, never from the code. reduces: it ends a
    composition. Element-wise steps give `element`, the new value of each element, `when` it changes
    (always if "") and `where` it is kept (always if ""). Others give `expression`, with {v} for the
    value so far, or `statements`, which set the variable {v} anew or return, or both.
    """

    phrases: tuple[str, ...]
    apply: Function
    element: str = ""
    when: str = ""
    where: str = ""
    expression: str = ""
    statements: str = ""
    reduces: bool = False

    @property
    def key(self) -> str:
        """What tells this operation from all others of its domain."""
        return self.phrases[0]


@dataclass(frozen=True, slots=True)
class Predicate:
    """A property of an element: what those that have it are called, code, its inverse, meaning."""

    noun: str
    code: str
    inverse: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of an element: words with {them} for what changes, code and meaning."""

    phrase: str
    code: str
    of: Function


@dataclass(frozen=True, slots=True)
class Domain:
    """The operations on one type of value, and the words and code that all of them share.

    variables: names for the argument. element: name of one element. comprehension, start and push:
    how the result is built, in one expression or in a loop; {e} is an element's new value, {clause}
    the rest of the comprehension. families: the operations; one is drawn by drawing its family
    first. steps, ends: weights of the families that go on and of those that end a composition.
    """

    name: str
    variables: tuple[str, ...]
    element: str
    comprehension: str
    start: str
    push: str
    families: dict[str, tuple[Operation, ...]]
    steps: dict[str, float]
    ends: dict[str, float]


def rows(
    *table: tuple[str, str, Function] | tuple[str, str, Function, str], reduces: bool = False
) -> tuple[Operation, ...]:
    """Return operations from rows of phrases (split at "|"), expression, meaning, statements."""
    return tuple(
        Operation(
            tuple(phrases.split("|")),
            apply,
            expression=expression,
            statements=statements[0] if statements else "",
            reduces=reduces,
        )
        for phrases, expression, apply, *statements in table
    )


def filters(p: Predicate, join: Function) -> tuple[Operation, ...]:
    """Return the operations that keep or drop the elements with a property."""
    return (
        Operation(
            (f"keep {p.noun}", f"keep only {p.noun}"),
            lambda v: join([x for x in v if p.holds(x)]),
            where=p.code,
        ),
        Operation(
            (f"drop {p.noun}", f"remove {p.noun}"),
            lambda v: join([x for x in v if not p.holds(x)]),
            where=p.inverse,
        ),
    )


def change_all(c: Change, join: Function) -> Operation:
    """Return the operation that changes every element."""
    return Operation(
        (c.phrase.format(them="each"), c.phrase.format(them="all")),
        lambda v: join([c.of(x) for x in v]),
        element=c.code,
    )


def change_some(p: Predicate, c: Change, join: Function) -> Operation:
    """Return the operation that changes the elements with a property and keeps the others."""
    return Operation(
        (c.phrase.format(them=p.noun),),
        lambda v: join([c.of(x) if p.holds(x) else x for x in v]),
        element=c.code,
        when=p.code,
    )


def questions(p: Predicate, x: str) -> tuple[Operation, ...]:
    """Return the reductions to how many elements have a property, and whether any or all have."""
    loop = f"for {x} in {{v}}:\n    if "
    return rows(
        (
            f"count {p.noun}|return the number of {p.noun}",
            f"sum(1 for {x} in {{v}} if {p.code})",
            lambda v: sum(p.holds(x) for x in v),
            f"count = 0\n{loop}{p.code}:\n        count += 1\nreturn count",
        ),
        (
            f"tell if any are {p.noun}|return whether there are {p.noun}",
            f"any({p.code} for {x} in {{v}})",
            lambda v: any(p.holds(x) for x in v),
            f"{loop}{p.code}:\n        return True\nreturn False",
        ),
        (
            f"tell if all are {p.noun}|return whether all are {p.noun}",
            f"all({p.code} for {x} in {{v}})",
            lambda v: all(p.holds(x) for x in v),
            f"{loop}{p.inverse}:\n        return False\nreturn True",
        ),
        reduces=True,
    )


def ends(k: int, things: str) -> tuple[Operation, ...]:
    """Return the operations that take or leave `k` elements at either end."""
    few = f"{k} {things}s" if k > 1 else things
    return rows(
        (f"take the first {few}", f"{{v}}[:{k}]", lambda v: v[:k]),
        (f"skip the first {few}", f"{{v}}[{k}:]", lambda v: v[k:]),
        (f"take the last {few}", f"{{v}}[-{k}:]", lambda v: v[-k:]),
        (f"cut the last {few}", f"{{v}}[:-{k}]", lambda v: v[:-k]),
    )


def turns(things: str) -> tuple[Operation, ...]:
    """Return the operations that depend on the elements' places alone."""
    return rows(
        ("reverse|reverse the order", "{v}[::-1]", lambda v: v[::-1]),
        (f"take every second {things}", "{v}[::2]", lambda v: v[::2]),
        (f"take every third {things}", "{v}[::3]", lambda v: v[::3]),
        ("rotate left", "{v}[1:] + {v}[:1]", lambda v: v[1:] + v[:1]),
        ("rotate right", "{v}[-1:] + {v}[:-1]", lambda v: v[-1:] + v[:-1]),
    )
