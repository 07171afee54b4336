"""Tables of what fills the slots of a kind: words, code and meaning of each part."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

_SAMPLE = range(-60, 60)
_OPERAND = re.compile(r"\b[xy]\b")


@dataclass(frozen=True, slots=True)
class Part:
    """What can fill a slot: `words` and `code` over the operands x and y, and the meaning `of`.

    The code is an expression that takes names and subscripts; who puts it under an operator or
    `not` adds the parentheses.

    of: a function of the operands, or a constant. also: further pieces of code that belong to it,
    such as the start of a loop, by name.
    """

    words: str
    code: str
    of: Any
    also: Mapping[str, str] = field(default_factory=dict)


def put(text: str, operands: Sequence[str]) -> str:
    """Return `text` with x and y replaced by the operands, if there are any."""
    if not operands:
        return text
    names = dict(zip("xy", operands, strict=False))
    return _OPERAND.sub(lambda found: names.get(found[0], found[0]), text)


def constants(values: Sequence[Any]) -> tuple[Part, ...]:
    """Return parts that are values, said and written as Python writes them."""
    return tuple(Part(repr(value), repr(value), value) for value in values)


def named(values: Mapping[str, Any]) -> tuple[Part, ...]:
    """Return parts that are values with words of their own."""
    return tuple(Part(words, repr(value), value) for words, value in values.items())


def properties(largest: int) -> tuple[Part, ...]:
    """Return properties of a number, said after "that are"."""
    return (
        Part("even", "x % 2 == 0", lambda x: not x & 1),
        Part("odd", "x % 2 == 1", lambda x: bool(x & 1)),
        Part("positive", "x > 0", lambda x: x >= 1),
        Part("negative", "x < 0", lambda x: x <= -1),
        *(p for k in range(2, largest + 1) for p in _properties(k)),
    )


def _properties(k: int) -> Iterator[Part]:
    yield Part(f"above {k}", f"x > {k}", lambda x: x - k >= 1)
    yield Part(f"below {k}", f"x < {k}", lambda x: k - x >= 1)
    if k > 2:
        yield Part(f"divisible by {k}", f"x % {k} == 0", lambda x: x == x // k * k)


def either(parts: Sequence[Part], sample: Sequence[Any] = _SAMPLE) -> tuple[Part, ...]:
    """Return the properties and what pairs of them make, joined by `and` or `or`.

    Of those that agree on the whole `sample` only the first is there: two compositions that mean
    the same could else be in two splits. Those that always or never hold are left out.
    """
    pairs = list(combinations(parts, 2))
    joined = [_joined(*pair, "and", lambda a, b: a and b) for pair in pairs]
    joined += [_joined(*pair, "or", lambda a, b: a or b) for pair in pairs]
    found: dict[tuple[bool, ...], Part] = {}
    for part in (*parts, *joined):
        table = tuple(bool(part.of(x)) for x in sample)
        if len(set(table)) > 1:
            found.setdefault(table, part)
    return tuple(found.values())


def _joined(one: Part, two: Part, word: str, of: Callable[[bool, bool], bool]) -> Part:
    return Part(
        f"{one.words} {word} {two.words}",
        f"{one.code} {word} {two.code}",
        lambda x: of(one.of(x), two.of(x)),
    )


def changes(largest: int) -> tuple[Part, ...]:
    """Return functions of one number."""
    return (
        Part("twice x", "x * 2", lambda x: x + x),
        Part("x squared", "x * x", lambda x: x**2),
        Part("minus x", "-x", lambda x: 0 - x),
        Part("the absolute value of x", "abs(x)", lambda x: x if x > 0 else -x),
        Part("half of x rounded down", "x // 2", lambda x: x >> 1),
        *(p for k in range(2, largest + 1) for p in _changes(k)),
    )


def _changes(k: int) -> Iterator[Part]:
    yield Part(f"x plus {k}", f"x + {k}", lambda x: k + x)
    yield Part(f"x minus {k}", f"x - {k}", lambda x: -k + x)
    yield Part(f"{k} minus x", f"{k} - x", lambda x: -(x - k))
    yield Part(f"x modulo {k}", f"x % {k}", lambda x: x - x // k * k)
    yield Part(f"the smaller of x and {k}", f"min(x, {k})", lambda x: x if x < k else k)
    yield Part(f"the larger of x and {k}", f"max(x, {k})", lambda x: x if x > k else k)
    if k > 2:
        yield Part(f"{k} times x", f"x * {k}", lambda x: k * x)


def mixtures(largest: int) -> tuple[Part, ...]:
    """Return functions of two numbers."""
    return (
        Part("x plus y", "x + y", lambda x, y: y + x),
        Part("x minus y", "x - y", lambda x, y: -y + x),
        Part("x times y", "x * y", lambda x, y: y * x),
        Part("the larger of x and y", "max(x, y)", lambda x, y: x if x > y else y),
        Part("the smaller of x and y", "min(x, y)", lambda x, y: x if x < y else y),
        Part("the distance between x and y", "abs(x - y)", lambda x, y: max(x, y) - min(x, y)),
        *(p for k in range(2, largest + 1) for p in _mixtures(k)),
    )


def _mixtures(k: int) -> Iterator[Part]:
    yield Part(f"{k} times x, plus y", f"{k} * x + y", lambda x, y: y + x * k)
    yield Part(f"x minus {k} times y", f"x - {k} * y", lambda x, y: x + y * -k)


def relations(largest: int) -> tuple[Part, ...]:
    """Return properties of two numbers."""
    return (
        Part("x is smaller than y", "x < y", lambda x, y: y > x),
        Part("x is larger than y", "x > y", lambda x, y: y < x),
        Part("x and y are different", "x != y", lambda x, y: (x - y) ** 2 > 0),
        Part("x plus y is even", "(x + y) % 2 == 0", lambda x, y: x & 1 == y & 1),
        Part("x plus y is odd", "(x + y) % 2 == 1", lambda x, y: x & 1 != y & 1),
        Part("x times y is negative", "x * y < 0", lambda x, y: min(x, y) < 0 < max(x, y)),
        *(p for k in range(2, largest + 1) for p in _relations(k)),
    )


def _relations(k: int) -> Iterator[Part]:
    yield Part(f"x plus y is above {k}", f"x + y > {k}", lambda x, y: y > k - x)
    yield Part(
        f"x and y are at most {k} apart", f"abs(x - y) <= {k}", lambda x, y: -k <= x - y <= k
    )
    yield Part(
        f"x and y are more than {k} apart", f"abs(x - y) > {k}", lambda x, y: not -k <= x - y <= k
    )


def totals() -> tuple[Part, ...]:
    """Return functions of a list of numbers; `start` and `step` say them as a loop over x.

    Each is a fold from a fixed start, so that the loop, which keeps it in y, needs no first case.
    """

    def total(words: str, code: str, of: Callable[[list[int]], int], start: str, step: str) -> Part:
        return Part(words, code, of, {"start": start, "step": step})

    return (
        total("the sum", "sum(x)", sum, "0", "y += x"),
        total("the largest value (at least 0)", "max([0, *x])", _top, "0", "y = max(y, x)"),
        total("the smallest value (at most 0)", "min([0, *x])", _low, "0", "y = min(y, x)"),
        total(
            "the sum of the squares",
            "sum(value * value for value in x)",
            lambda values: sum(value**2 for value in values),
            "0",
            "y += x * x",
        ),
        total(
            "the sum of the absolute values",
            "sum(map(abs, x))",
            lambda values: sum(max(value, -value) for value in values),
            "0",
            "y += abs(x)",
        ),
        total(
            "the largest absolute value (0 if none)",
            "max(map(abs, x), default=0)",
            lambda values: max((max(value, -value) for value in values), default=0),
            "0",
            "y = max(y, abs(x))",
        ),
    )


def _top(values: list[int]) -> int:
    return max((value for value in values if value > 0), default=0)


def _low(values: list[int]) -> int:
    return min((value for value in values if value < 0), default=0)


_VOWELS = set("aeiou")
PRINTABLE = "".join(map(chr, range(32, 127)))


def _is_word(x: str) -> bool:
    return "0" <= x <= "9" or "A" <= x <= "Z" or "a" <= x <= "z"


def characters() -> tuple[Part, ...]:
    """Return properties of a character, said after "that are"; x is the character."""
    return (
        Part("vowels", 'x in "aeiou"', lambda x: x in _VOWELS),
        Part("digits", "x.isdigit()", lambda x: "0" <= x <= "9"),
        Part("letters", "x.isalpha()", lambda x: "a" <= x.lower() <= "z"),
        Part("capitals", "x.isupper()", lambda x: "A" <= x <= "Z"),
        Part("small letters", "x.islower()", lambda x: "a" <= x <= "z"),
        Part("punctuation or spaces", "not x.isalnum()", lambda x: not _is_word(x)),
        *map(_one_of, _PAIRS),
    )


_PAIRS = ("ab", "et", "a1", "-+", "02", "sT")


def _one_of(known: str) -> Part:
    words = " or ".join(f'"{one}"' for one in known)
    return Part(words, f'x in "{known}"', lambda x: any(x == one for one in known))
