"""The tables of minicode: operations on lists of integers and on strings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import accumulate, chain, pairwise
from math import prod

from wmtp.data.sources.minicode.operations import (
    Change,
    Domain,
    Operation,
    Predicate,
    change_all,
    change_some,
    ends,
    filters,
    questions,
    rows,
    turns,
)

flatten = chain.from_iterable


@cache
def numbers(largest: int) -> Domain:
    """Return the operations on lists of integers, with constants from 2 to `largest`."""
    constants = range(2, largest + 1)
    predicates = [*_NUMBER_PREDICATES, *flatten(map(_number_predicates, constants))]
    changes = [*_NUMBER_CHANGES, *flatten(map(_number_changes, constants))]
    some = [*changes, *map(_replacement, constants)]
    return Domain(
        name="numbers",
        variables=("xs", "nums", "items"),
        element="x",
        comprehension="[{e} for {clause}]",
        start="[]",
        push="out.append({e})",
        families={
            "filter": tuple(flatten(filters(p, list) for p in predicates)),
            "change": tuple(change_all(c, list) for c in changes),
            "change some": tuple(change_some(p, c, list) for p in predicates for c in some),
            "place": (*flatten(ends(k, "number") for k in range(1, 5)), *turns("number")),
            "arrange": (*_NUMBER_ARRANGEMENTS, *flatten(map(_number_additions, constants))),
            "question": tuple(flatten(questions(p, "x") for p in predicates)),
            "reduce": _NUMBER_REDUCTIONS,
            "remainder": tuple(flatten(map(_number_remainders, constants))),
        },
        steps={"filter": 3, "change": 3, "change some": 1, "place": 1.5, "arrange": 1.5},
        ends={"reduce": 2, "question": 1, "remainder": 0.3},
    )


_NUMBER_PREDICATES = (
    Predicate("even numbers", "x % 2 == 0", "x % 2 == 1", lambda x: x % 2 == 0),
    Predicate("odd numbers", "x % 2 == 1", "x % 2 == 0", lambda x: x % 2 == 1),
    Predicate("positive numbers", "x > 0", "x <= 0", lambda x: x > 0),
    Predicate("negative numbers", "x < 0", "x >= 0", lambda x: x < 0),
)

_NUMBER_CHANGES = (
    Change("double {them}", "x * 2", lambda x: x * 2),
    Change("square {them}", "x * x", lambda x: x * x),
    Change("negate {them}", "-x", lambda x: -x),
    Change("halve {them}", "x // 2", lambda x: x // 2),
    Change("take the size of {them}", "abs(x)", abs),
)


def _number_predicates(k: int) -> Iterator[Predicate]:
    yield Predicate(f"numbers above {k}", f"x > {k}", f"x <= {k}", lambda x: x > k)
    yield Predicate(f"numbers below {k}", f"x < {k}", f"x >= {k}", lambda x: x < k)
    if k > 2:
        code = f"x % {k} == 0", f"x % {k} != 0"
        yield Predicate(f"multiples of {k}", *code, lambda x: x % k == 0)


def _number_changes(k: int) -> tuple[Change, ...]:
    return (
        Change(f"add {k} to {{them}}", f"x + {k}", lambda x: x + k),
        Change(f"subtract {k} from {{them}}", f"x - {k}", lambda x: x - k),
        Change(f"multiply {{them}} by {k}", f"x * {k}", lambda x: x * k),
        Change(f"cap {{them}} at {k}", f"min(x, {k})", lambda x: min(x, k)),
        Change(f"raise {{them}} to {k}", f"max(x, {k})", lambda x: max(x, k)),
        Change(f"take {{them}} modulo {k}", f"x % {k}", lambda x: x % k),
    )


def _replacement(k: int) -> Change:
    return Change(f"replace {{them}} by {k}", str(k), lambda x: k)


def _number_additions(k: int) -> tuple[Operation, ...]:
    return rows(
        (f"append {k}", f"{{v}} + [{k}]", lambda v: [*v, k], f"{{v}}.append({k})"),
        (f"prepend {k}", f"[{k}] + {{v}}", lambda v: [k, *v], f"{{v}}.insert(0, {k})"),
    )


def _number_remainders(k: int) -> tuple[Operation, ...]:
    row = (f"return the sum modulo {k}", f"sum({{v}}) % {k}", lambda v: sum(v) % k)
    return rows(row, reduces=True)


_NUMBER_ARRANGEMENTS = rows(
    ("sort|sort upwards", "sorted({v})", sorted, "{v}.sort()"),
    (
        "sort downwards",
        "sorted({v}, reverse=True)",
        lambda v: sorted(v, reverse=True),
        "{v}.sort(reverse=True)",
    ),
    ("sort without repeats", "sorted(set({v}))", lambda v: sorted(set(v))),
    (
        "drop repeats|remove repeats",
        "list(dict.fromkeys({v}))",
        lambda v: list(dict.fromkeys(v)),
        "out = []\nfor x in {v}:\n    if x not in out:\n        out.append(x)\n{v} = out",
    ),
    (
        "add neighbours",
        "[a + b for a, b in zip({v}, {v}[1:])]",
        lambda v: [a + b for a, b in pairwise(v)],
    ),
    (
        "subtract neighbours",
        "[b - a for a, b in zip({v}, {v}[1:])]",
        lambda v: [b - a for a, b in pairwise(v)],
    ),
    (
        "take running sums|sum so far",
        "[sum({v}[:i + 1]) for i in range(len({v}))]",
        lambda v: list(accumulate(v)),
        "total = 0\nout = []\nfor x in {v}:\n    total += x\n    out.append(total)\n{v} = out",
    ),
    (
        "take the largest so far",
        "[max({v}[:i + 1]) for i in range(len({v}))]",
        lambda v: list(accumulate(v, max)),
    ),
    (
        "add the index to each",
        "[i + x for i, x in enumerate({v})]",
        lambda v: [i + x for i, x in enumerate(v)],
        "for i in range(len({v})):\n    {v}[i] += i",
    ),
    (
        "multiply each by the index",
        "[i * x for i, x in enumerate({v})]",
        lambda v: [i * x for i, x in enumerate(v)],
        "for i in range(len({v})):\n    {v}[i] *= i",
    ),
)

_LOOP = "total = {start}\nfor x in {{v}}:\n    total {change}\nreturn total"

_NUMBER_REDUCTIONS = rows(
    ("return the sum|sum up", "sum({v})", sum, _LOOP.format(start=0, change="+= x")),
    ("return the product|multiply all", "", prod, _LOOP.format(start=1, change="*= x")),
    (
        "return the sum of squares",
        "sum(x * x for x in {v})",
        lambda v: sum(x * x for x in v),
        _LOOP.format(start=0, change="+= x * x"),
    ),
    ("return the length|return how many", "len({v})", len),
    ("count different numbers", "len(set({v}))", lambda v: len(set(v))),
    ("return the largest or 0", "max({v}, default=0)", lambda v: max(v, default=0)),
    ("return the smallest or 0", "min({v}, default=0)", lambda v: min(v, default=0)),
    (
        "return largest minus smallest",
        "max({v}, default=0) - min({v}, default=0)",
        lambda v: max(v, default=0) - min(v, default=0),
    ),
    ("return the first or 0", "{v}[0] if {v} else 0", lambda v: v[0] if v else 0),
    ("return the last or 0", "{v}[-1] if {v} else 0", lambda v: v[-1] if v else 0),
    reduces=True,
)


@cache
def text() -> Domain:
    """Return the operations on strings."""
    join = "".join
    predicates = [*_TEXT_PREDICATES, *map(_is_character, "abest")]
    changes = [_DOUBLE, *map(_character_after, "-*xy")]
    some = [*changes, *map(_replacing_character, "-*xy")]
    return Domain(
        name="text",
        variables=("s", "text", "word"),
        element="c",
        comprehension='"".join({e} for {clause})',
        start='""',
        push="out += {e}",
        families={
            "filter": tuple(flatten(filters(p, join) for p in predicates)),
            "change": tuple(change_all(c, join) for c in changes),
            "change some": tuple(change_some(p, c, join) for p in predicates for c in some),
            "place": (*flatten(ends(k, "character") for k in range(1, 5)), *turns("character")),
            "arrange": (*_TEXT_ARRANGEMENTS, *flatten(map(_text_additions, "-*xy"))),
            "question": tuple(flatten(questions(p, "c") for p in predicates)),
            "reduce": _TEXT_REDUCTIONS,
        },
        steps={"filter": 3, "change": 1, "change some": 2, "place": 2, "arrange": 3},
        ends={"reduce": 1, "question": 1},
    )


_TEXT_PREDICATES = (
    Predicate("vowels", 'c in "aeiou"', 'c not in "aeiou"', lambda c: c in "aeiou"),
    Predicate("digits", "c.isdigit()", "not c.isdigit()", str.isdigit),
    Predicate("letters", "c.isalpha()", "not c.isalpha()", str.isalpha),
    Predicate("capitals", "c.isupper()", "not c.isupper()", str.isupper),
    Predicate("spaces", 'c == " "', 'c != " "', lambda c: c == " "),
)

_DOUBLE = Change("double {them}", "c * 2", lambda c: c * 2)


def _is_character(k: str) -> Predicate:
    return Predicate(f'"{k}"', f'c == "{k}"', f'c != "{k}"', lambda c: c == k)


def _character_after(k: str) -> Change:
    return Change(f'put "{k}" after {{them}}', f'c + "{k}"', lambda c: c + k)


def _replacing_character(k: str) -> Change:
    return Change(f'replace {{them}} by "{k}"', f'"{k}"', lambda c: k)


def _text_additions(k: str) -> tuple[Operation, ...]:
    return rows(
        (f'append "{k}"', f'{{v}} + "{k}"', lambda v: v + k, f'{{v}} += "{k}"'),
        (f'prepend "{k}"', f'"{k}" + {{v}}', lambda v: k + v),
    )


_TEXT_ARRANGEMENTS = rows(
    ("turn to upper case|make it upper case", "{v}.upper()", str.upper),
    ("turn to lower case|make it lower case", "{v}.lower()", str.lower),
    ("swap upper and lower case", "{v}.swapcase()", str.swapcase),
    ("sort the characters", '"".join(sorted({v}))', lambda v: "".join(sorted(v))),
    (
        "drop repeats|remove repeats",
        '"".join(dict.fromkeys({v}))',
        lambda v: "".join(dict.fromkeys(v)),
        'out = ""\nfor c in {v}:\n    if c not in out:\n        out += c\n{v} = out',
    ),
)

_TEXT_REDUCTIONS = rows(
    ("return the length|count the characters", "len({v})", len),
    ("count different characters", "len(set({v}))", lambda v: len(set(v))),
    ("count the words|return the number of words", "len({v}.split())", lambda v: len(v.split())),
    ("split into words|return the words", "{v}.split()", str.split),
    ("tell if it reads the same backwards", "{v} == {v}[::-1]", lambda v: v == v[::-1]),
    ("return the largest character", 'max({v}, default="")', lambda v: max(v, default="")),
    reduces=True,
)
