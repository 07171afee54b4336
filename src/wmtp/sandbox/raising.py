"""Exceptions on their way between the candidate and the judge: built-in class, name and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wmtp.sandbox.codec import EXCEPTIONS, Malformed

ERROR_TEXT_LENGTH = 10_000
# What an exception may take along; others send their text alone.
ERROR_ARGUMENTS = frozenset({type(None), bool, int, float, str, bytes})
NOT_IN_PROTOCOL = "an exception that is not in the protocol"


def message_of(error: BaseException, handles: Mapping[int, int]) -> dict[str, Any]:
    """Return what is sent about `error`; its `args` are yet to be encoded.

    handles: those of objects that the other side has references to, by `id`.
    """
    builtin = builtin_base(type(error))
    lineage = type.mro(type(error))
    own = lineage[: lineage.index(builtin) + (type(error) is builtin)]
    try:
        text = str.__str__(str(error))
    except BaseException as inner:  # noqa: BLE001  a hostile __str__ must not hide the error
        text = f"(its text cannot be had: {type(inner).__name__})"
    args: list[Any] = [text[:ERROR_TEXT_LENGTH]]
    if type(error) is builtin and ERROR_ARGUMENTS.issuperset(map(type, error.args)):
        args = list(error.args)
    return {
        "raise": builtin.__name__,
        "name": type(error).__name__,
        "args": args,
        "classes": [handles[id(c)] for c in own if id(c) in handles],
    }


def exception_of(
    message: dict[str, Any], args: Any, known: Mapping[int, type[BaseException]]
) -> BaseException:
    """Return the exception in `message`, whose `args` are decoded; `Malformed` when it is none.

    known: classes of the program that the tests have, by their handle.
    """
    name = message.get("name")
    try:
        classes = [known.get(handle) for handle in message["classes"]]
        kind = next((c for c in classes if c), None) or EXCEPTIONS[message["raise"]]
    except (KeyError, TypeError):
        raise Malformed(NOT_IN_PROTOCOL) from None
    plain = type(args) is list and ERROR_ARGUMENTS.issuperset(map(type, args))
    # Some versions of Python crash on the text of a Unicode error at a place before the first.
    odd = plain and issubclass(kind, UnicodeError) and any(type(a) is int and a < 0 for a in args)
    if not plain or odd or type(name) is not str:
        raise Malformed(NOT_IN_PROTOCOL)
    error = instance_of(kind, args)
    error.candidate_name = name  # type: ignore[attr-defined]
    return error


def builtin_base(kind: type) -> type[BaseException]:
    """Return the built-in exception that `kind` is or extends."""
    return next(c for c in type.mro(kind) if EXCEPTIONS.get(c.__name__) is c)


def instance_of(kind: type[BaseException], args: list[Any]) -> BaseException:
    """Return `kind(*args)`, or one of its plainer bases where that cannot be made."""
    for base in type.mro(kind):
        try:
            return base(*args)
        except (TypeError, ValueError):
            continue
    return BaseException(*args)
