"""Calls between the judge and the candidate, two processes that share nothing but a socket.

Plain data crosses by value. Functions, classes and instances stay where they are; the other side
gets a reference (see `references.py`). The judge compares plain values itself, so no `__eq__` of
the candidate's ever sees an expected value.
"""

from __future__ import annotations

import importlib
import socket
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wmtp.sandbox import wire
from wmtp.sandbox.codec import EXCEPTIONS, Malformed, decode, dumps, encode, loads
from wmtp.sandbox.raising import builtin_base, exception_of, instance_of, message_of
from wmtp.sandbox.references import LENT, MUTABLE, Lent, Remote, extended, returned

MESSAGE_LIMIT_BYTES = 32 << 20
ITERATOR_MODULES = ("builtins", "itertools", "collections", "_collections")
# These end a loop or a generator of the tests without a word (compare PEP 479).
SILENT = (StopIteration, StopAsyncIteration, GeneratorExit)


class Gone(BaseException):
    """The conversation cannot go on; `except Exception` lets it by.

    `outcome` says why: "gone" when the other process ended, "malformed" when it broke the protocol,
    "output_limit" when it sent too much, "failed" when what it sent led the tests to hand over
    something that cannot cross.
    """

    def __init__(self, outcome: str, reason: str = "") -> None:
        super().__init__(reason)
        self.outcome = outcome


class CannotCross(BaseException):
    """The tests need something in the candidate that plain data and references cannot stand for.

    Only what the tests do by themselves may raise this: it leads to the weaker in-process run,
    which a program must not be able to choose.
    """


class Peer:
    """One end of the conversation.

    operations: what the other side may ask for. None marks the judge's end: there the other side
    may only use the functions and iterators that the tests handed out, and values go out unchanged
    or not at all, while the candidate's end reduces them to plain data.
    """

    def __init__(
        self,
        connection: socket.socket,
        operations: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self._connection = connection
        self._is_judge = operations is None
        self._operations = operations or {"call": self._call_lent, "next": self._next_of_lent}
        self._objects: list[Any] = []
        self._handles: dict[int, int] = {}
        self._references: dict[int, Remote | Lent] = {}
        self._extended: dict[int, Any] = {}
        self._error_classes: dict[int, type[BaseException]] = {}
        self.fault: Gone | CannotCross | None = None

    def request(self, operation: str, /, *args: Any, **kwargs: Any) -> Any:
        """Have the other side do `operation`; return its result or raise its exception."""
        self._send({"do": operation, "args": self._encode([list(args), kwargs])})
        while True:
            message = self._receive()
            if "do" in message:
                self._answer(message)
            elif "value" in message:
                return self._decode(message["value"])
            else:
                error = self._exception(message)
                ends = operation == "next" and isinstance(error, StopIteration)
                if self._is_judge and isinstance(error, SILENT) and not ends:
                    raise RuntimeError(f"the program raised {message['name']}")
                raise error

    def serve(self) -> None:
        """Answer requests until the other side hangs up."""
        try:
            while True:
                self._answer(self._receive())
        except Gone:
            return

    def cannot_cross(self, reason: str) -> CannotCross:
        """Note that the tests cannot run across processes; return the exception to raise."""
        error = CannotCross(reason)
        self.fault = self.fault or error
        return error

    def gone(self, outcome: str, reason: str) -> Gone:
        """Note that the conversation is over; return the exception to raise."""
        error = Gone(outcome, reason)
        self.fault = self.fault or error
        return error

    def _answer(self, message: dict[str, Any]) -> None:
        try:
            request = self._decode(message.get("args"))
            if type(request) is not list or list(map(type, request)) != [list, dict]:
                raise self.gone("malformed", "a request that is not in the protocol")
            arguments, keywords = request
            operation = self._operations[message["do"]]
            result = operation(*arguments, **keywords)
            reply = {"value": self._encode(result)}
        except (Gone, CannotCross):
            raise
        except BaseException as error:  # noqa: BLE001  whatever it is, it belongs to the caller
            reply = self._error(error)
        self._send(reply)

    def _call_lent(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if id(function) not in self._handles:
            raise TypeError("this is not a function of the tests")
        return function(*args, **kwargs)

    def _next_of_lent(self, iterator: Any) -> Any:
        if id(iterator) not in self._handles:
            raise TypeError("this is not an iterator of the tests")
        return next(iterator)

    def _error(self, error: BaseException) -> dict[str, Any]:
        message = message_of(error, self._handles)
        return {**message, "args": self._encode(message["args"])}

    def _exception(self, message: dict[str, Any]) -> BaseException:
        args = self._decode(message.get("args"))
        try:
            return exception_of(message, args, self._error_classes)
        except Malformed as error:
            raise self.gone("malformed", str(error)) from None

    # ---- values -----------------------------------------------------------------------------

    def _encode(self, value: Any) -> Any:
        return encode(value, self._refer, reduce=not self._is_judge)

    def _refer(self, value: Any) -> dict[str, Any]:
        """Return the node that stands for something that is not plain."""
        if isinstance(value, (Remote, Lent)):
            return {"yours": value._handle}
        if self._is_judge:
            return self._lend(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"exception": [self._handle(value), builtin_base(value).__name__]}
        return {"mine": self._handle(value)}

    def _lend(self, value: Any) -> dict[str, Any]:
        """Return the node for something of the tests'; a `CannotCross` when there is none.

        Whatever a program can send, and make of it by sending other things, has to have one, or be
        refused as the program's fault.
        """
        plain = returned(value)
        if plain is not value:
            return self._encode(plain)
        if isinstance(value, type) and "candidate_handle" in vars(value):
            return {"yours": vars(value)["candidate_handle"]}
        name = _name_in_library(value)
        if name is not None:
            return {"library": name}
        if isinstance(value, BaseException):
            return {"error": [self._encode(type(value)), self._encode(list(value.args))]}
        if isinstance(value, type):
            if value.__module__ == "builtins" or value.__module__.startswith("wmtp."):
                raise self.gone("failed", f"the tests hand over the type {value.__name__}")
        elif type(value) is object:
            return {"lent": [self._handle(value), "object"]}
        elif callable(value):
            return {"lent": [self._handle(value), "function"]}
        elif isinstance(value, Iterator) and type(value).__module__ in ITERATOR_MODULES:
            return {"lent": [self._handle(value), "iterator"]}
        elif isinstance(value, tuple) and type(value).__module__ in sys.stdlib_module_names:
            return self._encode(tuple(value))  # such as `Decimal.as_tuple()`
        raise self.cannot_cross(f"the tests hand over a {type(value).__name__}")

    def _handle(self, value: Any) -> int:
        handle = self._handles.setdefault(id(value), len(self._objects))
        if handle == len(self._objects):
            self._objects.append(value)  # which also keeps its id from being used again
        return handle

    def _decode(self, node: Any) -> Any:
        try:
            return decode(node, self._resolve, self._extend)
        except Malformed as error:
            raise self.gone("malformed", str(error)) from None

    def _resolve(self, tag: str, body: Any) -> Any:
        if tag == "yours" and type(body) is int and 0 <= body < len(self._objects):
            return self._objects[body]
        resolved = (self._of_program if self._is_judge else self._of_tests)(tag, body)
        if resolved is None:
            raise Malformed(f"unknown tag {tag[:100]!r}")
        return resolved

    def _extend(self, plain: Any, remote: Any) -> Any:
        value = extended(plain, remote)
        if isinstance(value, MUTABLE):
            return value
        return self._extended.setdefault(remote._handle, value)  # the same one for `is`

    def _of_program(self, tag: str, body: Any) -> Any:
        """Return what stands in the judge for something of the program's."""
        if tag == "mine" and type(body) is int:
            return self._references.setdefault(body, Remote(self, body))
        if tag == "exception":
            handle, base = body
            if handle not in self._error_classes:
                made = type("CandidateError", (EXCEPTIONS[base],), {"candidate_handle": handle})
                self._error_classes[handle] = made
            return self._error_classes[handle]
        return None

    def _of_tests(self, tag: str, body: Any) -> Any:
        """Return what stands in the candidate for something of the tests'."""
        if tag == "lent":
            handle, kind = body
            return self._references.setdefault(handle, LENT[kind](self, handle))
        if tag == "type":
            return body
        if tag == "library":
            module, path = body
            found: Any = importlib.import_module(module)
            for name in filter(None, path.split(".")):
                found = getattr(found, name)
            return found
        if tag == "error":
            kind, args = (self._decode(part) for part in body)
            return instance_of(kind, args)
        return None

    # ---- messages ---------------------------------------------------------------------------

    def _send(self, message: dict[str, Any]) -> None:
        payload = dumps(message)
        if len(payload) > MESSAGE_LIMIT_BYTES:
            payload = dumps({"overflow": len(payload)})
        try:
            wire.send(self._connection, payload)
        except OSError as error:
            raise self.gone("gone", str(error)) from None

    def _receive(self) -> dict[str, Any]:
        try:
            message = loads(wire.receive(self._connection, MESSAGE_LIMIT_BYTES))
        except (OSError, EOFError) as error:
            raise self.gone("gone", str(error)) from None
        except wire.MessageTooLarge as error:
            raise self.gone("output_limit", str(error)) from None
        except Malformed as error:
            raise self.gone("malformed", str(error)) from None
        if type(message) is not dict:
            raise self.gone("malformed", "a message that is not in the protocol")
        if "overflow" in message:
            if type(message["overflow"]) is not int or message["overflow"] >> 64:
                raise self.gone("malformed", "a message that is not in the protocol")
            raise self.gone("output_limit", f"a value of {message['overflow']} bytes")
        return message


def _name_in_library(value: Any) -> list[Any] | None:
    """Return module and path of a module, class or function of the standard library, or None."""
    module: Any = getattr(value, "__module__", None)
    path: Any = getattr(value, "__qualname__", None)
    if isinstance(value, types.ModuleType):
        module, path = value.__name__, ""
    if type(module) is not str or type(path) is not str:
        return None
    if module.partition(".")[0] not in sys.stdlib_module_names:
        return None
    found: Any = sys.modules.get(module)
    for name in filter(None, path.split(".")):
        found = getattr(found, name, None)
    return [module, path] if found is value else None
