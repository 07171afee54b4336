"""Plain data as tagged JSON: all that may cross between the candidate and the judge.

JSON's own scalars and lists stand for themselves; every other kind is an object with one key, its
tag. Subclasses are reduced to the built-in type they extend, so nothing that arrives carries code.
What is not plain goes to the hooks of `peer.py`, which send a reference in its place.
"""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable
from typing import Any

SCALARS = frozenset({type(None), bool, int, float, str})

# Types that may cross by name. `type` itself and anything that runs text is left out on purpose.
DATA_TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(bool, int, float, complex, str, bytes, bytearray),
        *(list, tuple, dict, set, frozenset, range, object),
    )
}
EXCEPTIONS: dict[str, type[BaseException]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}


class Malformed(Exception):
    """A message is not what `encode` can produce."""


def encode(value: Any, refer: Callable[[Any], dict[str, Any]], *, reduce: bool) -> Any:
    """Return `value` as something `dumps` takes.

    `refer` gives the stand-in for what is not plain data. With `reduce`, instances of subclasses of
    plain types become their plain base; without it they count as not plain.
    """

    def items(values: Any) -> list[Any]:
        values = list(values)
        return values if SCALARS.issuperset(map(type, values)) else [visit(v) for v in values]

    def visit(value: Any) -> Any:
        kind = type(value)
        if kind in SCALARS:
            return value
        if kind is list:
            return items(value)
        if kind in (tuple, set, frozenset):
            return {kind.__name__: items(value)}
        if kind is dict:
            return {"dict": [items(value.keys()), items(value.values())]}
        if kind in (bytes, bytearray):
            return {kind.__name__: value.decode("latin-1")}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is range:
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, type) and kind is type:
            name = value.__name__
            if DATA_TYPES.get(name, EXCEPTIONS.get(name)) is value:
                return {"type": name}
        if reduce:
            for base, reduced in REDUCTIONS:
                if isinstance(value, base):
                    return visit(reduced(value))
        return refer(value)

    return visit(value)


REDUCTIONS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int),
    (float, float),
    (complex, complex),
    (str, str.__str__),
    (bytes, bytes),
    (bytearray, bytearray),
    (list, lambda value: list(list.__iter__(value))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
)


def decode(node: Any, resolve: Callable[[str, Any], Any]) -> Any:
    """Return the value that `encode` made `node` from; `resolve(tag, body)` for references."""

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
        if tag in ("tuple", "set", "frozenset"):
            return DATA_TYPES[tag](items(body))
        if tag == "dict":
            keys, values = body
            return dict(zip(items(keys), items(values), strict=True))
        if tag in ("bytes", "bytearray"):
            return DATA_TYPES[tag](body.encode("latin-1"))
        if tag in ("complex", "range"):
            return DATA_TYPES[tag](*body)
        if tag == "type":
            return DATA_TYPES.get(body) or EXCEPTIONS[body]
        return resolve(tag, body)

    try:
        return visit(node)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None
    except (ArithmeticError, RecursionError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None


def dumps(node: Any) -> bytes:
    """Return `node` as JSON, integers of any length included."""
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(node, separators=(",", ":"), check_circular=False).encode()
    finally:
        sys.set_int_max_str_digits(digits)


def loads(payload: bytes) -> Any:
    """Return what `dumps` wrote; `Malformed` when the bytes are something else."""
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None
    finally:
        sys.set_int_max_str_digits(digits)
