"""Calls between the judge and the candidate, two processes that share nothing but a socket.

Plain data crosses by value. Functions, classes and instances stay where they are; the other side
gets a `Remote` that forwards what is done to it. The judge compares plain values itself, so no
`__eq__` of the candidate's ever sees an expected value: an operator with a `Remote` on one side and
a plain value on the other is never forwarded.
"""

from __future__ import annotations

import operator
import socket
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from wmtp.sandbox import wire
from wmtp.sandbox.codec import EXCEPTIONS, Malformed, decode, dumps, encode, loads

MESSAGE_LIMIT_BYTES = 32 << 20

# What the judge may ask the candidate to do with an object of the candidate's.
OBJECT_OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, /, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "len": len,
    "iter": iter,
    "next": next,
    "str": str,
    "bool": bool,
    "eq": operator.eq,
    "isinstance": isinstance,
}


class Gone(BaseException):
    """The other process ended, broke the protocol or sent too much; `except Exception` lets it by.

    `outcome` says which: "gone", "malformed" or "output_limit".
    """

    def __init__(self, outcome: str, reason: str = "") -> None:
        super().__init__(reason)
        self.outcome = outcome


class CannotCross(BaseException):
    """The tests need something in the candidate that plain data and `Remote` cannot stand for.

    Only what the tests do by themselves may raise this: it leads to the weaker in-process run,
    which a program must not be able to choose.
    """


class Remote:
    """An object that lives in the other process; what is done to it is done there."""

    __slots__ = ("_handle", "_peer")

    def __init__(self, peer: Peer, handle: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_handle", handle)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return what the call returns over there, or raise what it raises."""
        return self._peer.request("call", self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._peer.request("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.request("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._peer.request("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._peer.request("setitem", self, key, value)

    def __len__(self) -> int:
        return self._peer.request("len", self)

    def __iter__(self) -> Any:
        return self._peer.request("iter", self)

    def __next__(self) -> Any:
        return self._peer.request("next", self)

    def __str__(self) -> str:
        return self._peer.request("str", self)

    def __bool__(self) -> bool:
        return self._peer.request("bool", self)

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, Remote):
            return NotImplemented
        return self._handle == other._handle or self._peer.request("eq", self, other)

    def __hash__(self) -> int:
        return hash(self._handle)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, Remote) and self._peer.request("isinstance", instance, self)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise self._peer.cannot_cross("the tests subclass a class of the program")


class Peer:
    """One end of the conversation.

    operations: what the other side may ask for. None marks the judge's end: there the other side
    may only call the functions that the tests handed out, and values go out unchanged or not at
    all, while the candidate's end reduces them to plain data.
    """

    def __init__(
        self,
        connection: socket.socket,
        operations: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self._connection = connection
        self._is_judge = operations is None
        self._operations = {"call": self._call_own} if operations is None else operations
        self._objects: list[Any] = []
        self._handles: dict[int, int] = {}
        self._error_classes: dict[int, type[BaseException]] = {}
        self.fault: Gone | CannotCross | None = None

    def request(self, operation: str, /, *args: Any, **kwargs: Any) -> Any:
        """Have the other side do `operation`; return its result or raise its exception."""
        try:
            arguments = self._encode([list(args), kwargs])
        except CannotCross as error:
            raise self.cannot_cross(str(error)) from None
        self._send({"do": operation, "args": arguments})
        while True:
            message = self._receive()
            if "do" in message:
                self._answer(message)
            elif "value" in message:
                return self._decode(message["value"])
            else:
                raise self._exception(message)

    def serve(self) -> None:
        """Answer requests until the other side hangs up."""
        try:
            while True:
                self._answer(self._receive())
        except Gone:
            return

    def cannot_cross(self, reason: str) -> CannotCross:
        """Note that the tests cannot run across processes; return the exception to raise."""
        self.fault = CannotCross(reason)
        return self.fault

    def _answer(self, message: dict[str, Any]) -> None:
        try:
            arguments, keywords = self._decode(message["args"])
            operation = self._operations[message["do"]]
            result = operation(*arguments, **keywords)
            reply = {"value": self._encode(result)}
        except Gone:
            raise
        except BaseException as error:  # noqa: BLE001  whatever it is, it belongs to the caller
            reply = self._error(error)
        self._send(reply)

    def _call_own(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not any(function is known for known in self._objects):
            raise TypeError("this is not a function of the tests")
        return function(*args, **kwargs)

    # ---- exceptions -------------------------------------------------------------------------

    def _error(self, error: BaseException) -> dict[str, Any]:
        lineage = type.mro(type(error))
        builtin = next(c.__name__ for c in lineage if EXCEPTIONS.get(c.__name__) is c)
        known = [self._handles[id(c)] for c in lineage if id(c) in self._handles]
        try:
            text = str.__str__(str(error))
        except BaseException as inner:  # noqa: BLE001  a hostile __str__ must not hide the error
            text = f"(its text cannot be had: {type(inner).__name__})"
        name = type(error).__name__
        return {"raise": builtin, "name": name, "text": text[:10_000], "classes": known}

    def _exception(self, message: dict[str, Any]) -> BaseException:
        try:
            classes = [self._error_classes.get(handle) for handle in message["classes"]]
            kind = next((c for c in classes if c), None) or EXCEPTIONS[message["raise"]]
            text, name = str(message["text"]), str(message["name"])
        except (KeyError, TypeError):
            raise self._gone("malformed", "an answer that is not in the protocol") from None
        if issubclass(kind, (BaseExceptionGroup, UnicodeError)):
            kind = ValueError if issubclass(kind, ValueError) else Exception
        error = kind(text)
        error.candidate_name = name  # type: ignore[attr-defined]
        return error

    # ---- values -----------------------------------------------------------------------------

    def _encode(self, value: Any) -> Any:
        return encode(value, self._refer, reduce=not self._is_judge)

    def _refer(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Remote):
            return {"yours": value._handle}
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        if isinstance(value, type) and "candidate_handle" in vars(value):
            return {"yours": vars(value)["candidate_handle"]}
        if self._is_judge and (not callable(value) or isinstance(value, type)):
            raise CannotCross(f"the tests hand over a {type(value).__name__}")
        handle = self._handles.setdefault(id(value), len(self._objects))
        if handle == len(self._objects):
            self._objects.append(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            base = next(c.__name__ for c in type.mro(value) if EXCEPTIONS.get(c.__name__) is c)
            return {"exception": [handle, base]}
        return {"mine": handle}

    def _decode(self, node: Any) -> Any:
        try:
            return decode(node, self._resolve)
        except Malformed as error:
            raise self._gone("malformed", str(error)) from None

    def _resolve(self, tag: str, body: Any) -> Any:
        if tag == "mine":
            return Remote(self, operator.index(body))
        if tag == "yours" and body >= 0:
            try:
                return self._objects[body]
            except IndexError:
                raise Malformed("a reference to nothing") from None
        if tag == "module" and body in sys.stdlib_module_names:
            return sys.modules[body]
        if tag == "exception":
            handle, base = body
            if handle not in self._error_classes:
                made = type("CandidateError", (EXCEPTIONS[base],), {"candidate_handle": handle})
                self._error_classes[handle] = made
            return self._error_classes[handle]
        raise Malformed(f"unknown tag {tag!r}")

    # ---- messages ---------------------------------------------------------------------------

    def _send(self, message: dict[str, Any]) -> None:
        payload = dumps(message)
        if len(payload) > MESSAGE_LIMIT_BYTES:
            payload = dumps({"overflow": len(payload)})
        try:
            wire.send(self._connection, payload)
        except OSError as error:
            raise self._gone("gone", str(error)) from None

    def _receive(self) -> dict[str, Any]:
        try:
            message = loads(wire.receive(self._connection, MESSAGE_LIMIT_BYTES))
        except (OSError, EOFError) as error:
            raise self._gone("gone", str(error)) from None
        except wire.MessageTooLarge as error:
            raise self._gone("output_limit", str(error)) from None
        except Malformed as error:
            raise self._gone("malformed", str(error)) from None
        if type(message) is not dict:
            raise self._gone("malformed", "a message that is not in the protocol")
        if "overflow" in message:
            raise self._gone("output_limit", f"a value of {message['overflow']} bytes")
        return message

    def _gone(self, outcome: str, reason: str) -> Gone:
        self.fault = self.fault or Gone(outcome, reason)
        return Gone(outcome, reason)
