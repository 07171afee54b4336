"""What stands in one process for an object of the other.

The judge holds a `Remote` for an object of the program's, and forwards to the program what the
tests do with it. The program holds a `Lent` for an object of the tests', which lets it do no more
than call a function or ask an iterator for its next value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wmtp.sandbox.codec import EXCEPTIONS, REDUCTIONS

if TYPE_CHECKING:
    from wmtp.sandbox.peer import Peer

# Operators are forwarded between two objects of the program, never with a plain value on one side:
# that would show the program what is expected, or let it decide a comparison with it.
ARITHMETIC = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow")
BITWISE = ("and_", "or_", "xor", "lshift", "rshift")
ORDER = ("lt", "le", "gt", "ge")
UNARY: dict[str, Callable[[Any], Any]] = {
    **{name: getattr(operator, name) for name in ("neg", "pos", "invert", "abs")},
    **{kind.__name__: kind for kind in (str, repr, bool, int, float, len, iter, next)},
}


def _exit(manager: Any, error: str | None) -> None:
    raised = None if error is None else EXCEPTIONS[error]()
    type(manager).__exit__(manager, None if raised is None else type(raised), raised, None)


# What the judge may ask the candidate to do with an object of the candidate's.
OBJECT_OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in (*ARITHMETIC, *BITWISE, *ORDER, "eq")},
    **UNARY,
    "call": lambda function, /, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "hash": hash,
    "isinstance": isinstance,
    "enter": lambda manager: type(manager).__enter__(manager),
    "exit": _exit,
}


class Remote:
    """An object of the program's; what the tests do to it is done there."""

    __slots__ = ("_handle", "_peer")

    def __init__(self, peer: Peer, handle: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_handle", handle)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return what the call returns over there, or raise what it raises."""
        return self._peer.request("call", self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in Remote.__slots__:
            raise AttributeError(name)
        return self._peer.request("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.request("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._peer.request("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._peer.request("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._peer.request("delitem", self, key)

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, Remote):
            return NotImplemented
        return self._handle == other._handle or self._peer.request("eq", self, other)

    def __hash__(self) -> int:
        return self._peer.request("hash", self)

    def __enter__(self) -> Any:
        return self._peer.request("enter", self)

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        """Leave over there. Whatever it returns, it cannot suppress a failure of the tests."""
        name = kind and next(c.__name__ for c in kind.__mro__ if EXCEPTIONS.get(c.__name__) is c)
        self._peer.request("exit", self, name)

    def __instancecheck__(self, instance: object) -> bool:
        if isinstance(instance, _Extended):
            instance = instance._original()
        return isinstance(instance, Remote) and self._peer.request("isinstance", instance, self)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise self._peer.cannot_cross("the tests subclass a class of the program")


def _add_operators() -> None:
    def between(operation: str) -> Callable[[Remote, object], Any]:
        def forward(self: Remote, other: object) -> Any:
            if not isinstance(other, Remote):
                return NotImplemented
            return self._peer.request(operation, self, other)

        return forward

    def alone(operation: str) -> Callable[[Remote], Any]:
        return lambda self: self._peer.request(operation, self)

    for operation in (*ARITHMETIC, *BITWISE, *ORDER):
        setattr(Remote, f"__{operation.rstrip('_')}__", between(operation))
    for operation in UNARY:
        setattr(Remote, f"__{operation}__", alone(operation))


_add_operators()


class _Extended:
    """An instance of the program's subclass of a plain type: that value, here and compared here.

    What the plain type does not have is asked of the object itself.
    """

    def _original(self) -> Any:
        """Return the object of the program, or the plain value where the tests made a new one."""
        remote = self.__dict__.get("_remote")
        return _plain(self) if remote is None else remote

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._original(), name, value)

    def __str__(self) -> str:
        return str(self._original())

    def __repr__(self) -> str:
        return repr(self._original())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _identity, (_plain(self),)  # a copy is plain


def _plain(value: _Extended) -> Any:
    return REDUCTIONS[type(value).__mro__[2]](value)


def _identity(value: Any) -> Any:
    return value


EXTENDED = {base: type(base.__name__, (_Extended, base), {}) for base in REDUCTIONS}
MUTABLE = (list, dict, set, bytearray)


def extended(plain: Any, remote: Any) -> Any:
    """Return `plain` with what else `remote` has; a `TypeError` when they are something else."""
    if type(plain) not in EXTENDED or type(remote) is not Remote:
        raise TypeError("not an instance of a subclass")
    value = EXTENDED[type(plain)](plain)
    value.__dict__["_remote"] = remote
    return value


def returned(value: Any) -> Any:
    """Return what goes back to the program in place of an extended value; else `value` itself.

    A value that the tests may have changed goes back plain.
    """
    if not isinstance(value, _Extended):
        return value
    return _plain(value) if isinstance(value, MUTABLE) else value._original()


class Lent:
    """An object of the tests' in the program: something to pass on and to give back."""

    def __init__(self, peer: Peer, handle: int) -> None:
        self._peer = peer
        self._handle = handle


class LentFunction(Lent):
    """A function of the tests'."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return what the call returns over there, or raise what it raises."""
        return self._peer.request("call", self, *args, **kwargs)


class LentIterator(Lent):
    """An iterator of the tests'."""

    def __iter__(self) -> LentIterator:
        return self

    def __next__(self) -> Any:
        return self._peer.request("next", self)


LENT = {"object": Lent, "function": LentFunction, "iterator": LentIterator}
