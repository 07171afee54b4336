"""Plain data as tagged JSON: all that may cross between the candidate and the judge.

JSON's own scalars and lists stand for themselves; every other kind is an object with one key, its
tag. What arrives is built here, of built-in types and a few of the standard library's, so nothing
that arrives carries code. An instance of a subclass crosses as the plain value it extends, beside a
reference to itself. What is not plain goes to the hooks of `peer.py`, which send a reference in its
place.
"""

from __future__ import annotations

import builtins
import json
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

from wmtp.sandbox.failures import describe

SCALARS = frozenset({type(None), bool, int, float, str})
# Longer integers cross as hexadecimal digits, for decimal ones take time that grows with the square
# of their number. Those in a list of scalars do not, so as to leave that path quick.
DECIMAL_BITS = 1 << 12

# Made once: the functions of `json` make them anew, or guess the encoding, for every message.
ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)
DECODER = json.JSONDecoder()

# Types that may cross by name. `type` itself and anything that runs text is left out on purpose,
# and so are types whose attributes can be set.
DATA_TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(bool, int, float, complex, str, bytes, bytearray),
        *(list, tuple, dict, set, frozenset, range, object),
        *(OrderedDict, deque, date, datetime, time, timedelta, Decimal),
    )
}
EXCEPTIONS: dict[str, type[BaseException]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}
# With one of these in place of an exception of its own, a program would have the tests catch what
# their assertions raise. So they come from it as subclasses, like exceptions of its own.
WIDE_EXCEPTIONS = (BaseException, Exception, AssertionError)


def _moment(value: time | datetime) -> list[Any]:
    return [value.isoformat(), value.fold]


def _duration(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


# Plain data of the standard library: to something that JSON has, and back.
Conversion = tuple[Callable[[Any], Any], Callable[[Any], Any]]
CONVERSIONS: dict[type, Conversion] = {
    Decimal: (str, Decimal),
    Fraction: (lambda value: [value.numerator, value.denominator], lambda body: Fraction(*body)),
    date: (date.isoformat, date.fromisoformat),
    time: (_moment, lambda body: time.fromisoformat(body[0]).replace(fold=body[1])),
    datetime: (_moment, lambda body: datetime.fromisoformat(body[0]).replace(fold=body[1])),
    timedelta: (_duration, lambda body: timedelta(*body)),
    timezone: (lambda v: _duration(v.utcoffset(None)), lambda body: timezone(timedelta(*body))),
}
# The same for what holds other values: to a list, and back.
HOLDERS: dict[type, Conversion] = {
    tuple: (list, tuple),
    set: (list, set),
    frozenset: (list, frozenset),
    slice: (lambda v: [v.start, v.stop, v.step], lambda body: slice(*body)),
    deque: (lambda v: [v.maxlen, *v], lambda body: deque(body[1:], body[0])),
    type({}.keys()): (list, lambda body: dict.fromkeys(body).keys()),
    type({}.values()): (list, lambda body: dict(enumerate(body)).values()),
    type({}.items()): (list, lambda body: dict(body).items()),
}
MAPPINGS: tuple[type, ...] = (dict, Counter, OrderedDict)
NAMED = {kind.__name__: kind for kind in (*CONVERSIONS, *HOLDERS, *MAPPINGS)}


class Malformed(Exception):
    """A message is not what `encode` can produce."""


def encode(value: Any, refer: Callable[[Any], dict[str, Any]], *, reduce: bool) -> Any:
    """Return `value` as something `dumps` takes.

    `refer` gives the stand-in for what is not plain data. With `reduce`, instances of subclasses of
    plain types become their plain base and a reference; without it they count as not plain.
    """

    def items(values: Any) -> list[Any]:
        values = list(values)
        return values if SCALARS.issuperset(map(type, values)) else [visit(v) for v in values]

    def visit(value: Any) -> Any:
        kind = type(value)
        if kind is int and value.bit_length() > DECIMAL_BITS:
            return {"int": hex(value)}
        if kind in SCALARS:
            return value
        if kind is list:
            return items(value)
        if kind in HOLDERS:
            return {kind.__name__: items(HOLDERS[kind][0](value))}
        if kind in MAPPINGS:
            return {kind.__name__: [items(value.keys()), items(value.values())]}
        if kind in (bytes, bytearray):
            return {kind.__name__: value.decode("latin-1")}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is range:
            return {"range": [value.start, value.stop, value.step]}
        if value is ...:
            return {"ellipsis": None}
        if kind in CONVERSIONS and has_plain_time_zone(value):
            return {kind.__name__: CONVERSIONS[kind][0](value)}
        if isinstance(value, type) and kind is type:
            name = value.__name__
            if DATA_TYPES.get(name, EXCEPTIONS.get(name)) is value:
                wide = reduce and value in WIDE_EXCEPTIONS
                return refer(value) if wide else {"type": name}
        if reduce:
            base = plain_base(value)
            if base is not None:
                return {"extended": [visit(REDUCTIONS[base](value)), refer(value)]}
        return refer(value)

    return visit(value)


def has_plain_time_zone(value: Any) -> bool:
    """Return whether `value` has no time zone, or one that is only an offset."""
    zone = getattr(value, "tzinfo", None)
    return zone is None or type(zone) is timezone


def plain_base(value: Any) -> type | None:
    """Return the plain type that the type of `value` extends, or None."""
    return next((base for base in REDUCTIONS if isinstance(value, base)), None)


REDUCTIONS: dict[type, Callable[[Any], Any]] = {
    int: int,
    float: float,
    complex: complex,
    str: str.__str__,
    bytes: bytes,
    bytearray: bytearray,
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}


def decode(
    node: Any,
    resolve: Callable[[str, Any], Any],
    extend: Callable[[Any, Any], Any] = lambda value, reference: value,
) -> Any:
    """Return the value that `encode` made `node` from.

    `resolve(tag, body)` gives what a reference stands for, `extend(value, reference)` an instance
    of a subclass; by default its plain value.
    """

    def items(nodes: Any) -> list[Any]:
        if type(nodes) is not list:
            raise Malformed("a list was expected")
        return nodes if SCALARS.issuperset(map(type, nodes)) else [visit(n) for n in nodes]

    def visit(node: Any) -> Any:
        if type(node) in SCALARS:
            return node
        if type(node) is list:
            return items(node)
        ((tag, body),) = node.items()
        kind = NAMED.get(tag)
        if kind in HOLDERS:
            return HOLDERS[kind][1](items(body))
        if kind in MAPPINGS:
            keys, values = body
            made = dict(zip(items(keys), items(values), strict=True))
            return made if kind is dict else kind(made)
        if kind in CONVERSIONS:
            return CONVERSIONS[kind][1](body)
        if tag == "int":
            return int(body, 16)
        if tag in ("bytes", "bytearray"):
            return DATA_TYPES[tag](body.encode("latin-1"))
        if tag in ("complex", "range"):
            return DATA_TYPES[tag](*body)
        if tag == "ellipsis":
            return ...
        if tag == "extended":
            plain, reference = body
            return extend(visit(plain), visit(reference))
        if tag == "type" and (body in DATA_TYPES or body in EXCEPTIONS):
            kind = DATA_TYPES.get(body) or EXCEPTIONS[body]
            return resolve(tag, kind) if kind in WIDE_EXCEPTIONS else kind
        return resolve(tag, body)

    try:
        return visit(node)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise Malformed(describe(error)) from None
    except (ArithmeticError, RecursionError) as error:
        raise Malformed(describe(error)) from None


def dumps(node: Any) -> bytes:
    """Return `node` as JSON, integers of any length included."""
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return ENCODER.encode(node).encode()
    finally:
        sys.set_int_max_str_digits(digits)


def loads(payload: bytes) -> Any:
    """Return what `dumps` wrote; `Malformed` when the bytes are something else."""
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return DECODER.decode(payload.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None
    finally:
        sys.set_int_max_str_digits(digits)
