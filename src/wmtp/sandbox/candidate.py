"""The candidate: the process that runs untrusted code and answers calls."""

from __future__ import annotations

import os
import socket
import sys
import types
from collections.abc import Callable
from typing import Any

from wmtp.sandbox.peer import Peer
from wmtp.sandbox.references import OBJECT_OPERATIONS

Report = Callable[[Any], None]

REPORT = 4  # the descriptor behind the `report` of a job


def run_candidate(payload: dict[str, Any], report: Report, connection: int) -> None:
    """Run untrusted code, then answer calls. This process never sees the tests."""
    os.close(REPORT)  # all that this process says goes through the conversation
    answer_calls(payload["code"], socket.socket(fileno=connection))


def answer_calls(code: str, channel: socket.socket) -> None:
    """Run `code`, then do with what it defines as the other end of `channel` asks."""
    try:
        namespace = load_program(code, "solution")
        failure: BaseException | None = None
    except BaseException as error:  # noqa: BLE001  SystemExit and the like belong to the judge
        namespace, failure = {}, error

    def lookup(names: list[str]) -> list[Any]:
        if failure is not None:
            raise failure
        found = {name: namespace[name] for name in names if name in namespace}
        modules = [name for name, value in found.items() if sys.modules.get(name) is value]
        return [modules, {name: found[name] for name in found if name not in modules}]

    Peer(channel, {**OBJECT_OPERATIONS, "lookup": lookup}).serve()


def load_program(code: str, name: str) -> dict[str, Any]:
    """Run `code` as the module `name` and return its globals; what it raises is raised."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(code, f"<{name}>", "exec"), module.__dict__)  # noqa: S102  isolated child
    return module.__dict__
