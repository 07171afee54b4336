"""What runs inside an isolated child: the candidate, the judge, or generated programs.

Each job gets its payload, a function `report` that hands results (JSON-able) to the fork server,
and the descriptor of the conversation with the other process, if the job has one.
"""

from __future__ import annotations

import builtins
import os
import signal
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wmtp.sandbox.conclusion import DETAIL_LENGTH
from wmtp.sandbox.peer import OBJECT_OPERATIONS, CannotCross, Gone, Peer

Report = Callable[[Any], None]

REPORT = 4  # the descriptor behind `report`


def load_program(code: str, name: str) -> dict[str, Any]:
    """Run `code` as the module `name` and return its globals; what it raises is raised."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(code, f"<{name}>", "exec"), module.__dict__)  # noqa: S102  isolated child
    return module.__dict__


def describe(error: BaseException, tests: str | None = None) -> str:
    """Return one line about `error`, with the failing line of `tests` when they are given."""
    name = getattr(error, "candidate_name", type(error).__name__)
    try:
        text = str(error)
    except BaseException as inner:  # noqa: BLE001  the error may be the program's own class
        text = f"(its text cannot be had: {type(inner).__name__})"
    where = ""
    if tests is not None:
        lines = [n for f, n in traceback.walk_tb(error.__traceback__) if _is_tests(f)]
        if lines:
            where = (
                f" at line {lines[-1]} of the tests: {tests.splitlines()[lines[-1] - 1].strip()}"
            )
    line = " ".join(f"{name}{': ' if text else ''}{text}{where}".split())
    return line.encode("utf-8", "replace").decode()[:DETAIL_LENGTH]


def _is_tests(frame: types.FrameType) -> bool:
    return frame.f_code.co_filename == "<tests>"


# ---- the candidate ------------------------------------------------------------------------------


def run_candidate(payload: dict[str, Any], report: Report, connection: int) -> None:
    """Run untrusted code, then answer calls. This process never sees the tests."""
    os.close(REPORT)  # all that this process says goes through the conversation
    try:
        namespace = load_program(payload["code"], "solution")
        failure: BaseException | None = None
    except BaseException as error:  # noqa: BLE001  SystemExit and the like belong to the judge
        namespace, failure = {}, error

    def lookup(names: list[str]) -> dict[str, Any]:
        if failure is not None:
            raise failure
        return {name: namespace[name] for name in names if name in namespace}

    channel = socket.socket(fileno=connection)
    Peer(channel, {**OBJECT_OPERATIONS, "lookup": lookup}).serve()


# ---- the judge ----------------------------------------------------------------------------------


def run_judge(payload: dict[str, Any], report: Report, connection: int) -> None:
    """Run the tests against a candidate in another process and report how they ended."""
    peer = Peer(socket.socket(fileno=connection))
    outcome, detail = _judge(peer, payload["tests"])
    if isinstance(peer.fault, Gone):
        outcome, detail = peer.fault.outcome, str(peer.fault)
    elif isinstance(peer.fault, CannotCross):
        outcome, detail = "cannot_cross", str(peer.fault)
    report([outcome, detail])


def _judge(peer: Peer, tests: str) -> tuple[str, str]:
    try:
        code = compile(tests, "<tests>", "exec")
    except (SyntaxError, ValueError) as error:
        return "broken_tests", describe(error)
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        namespace.update(_candidate_names(peer, code))
    except BaseException as error:  # noqa: BLE001  raised by the program
        return _failure(error, "while the program was loaded: ")
    try:
        exec(code, namespace)  # noqa: S102  isolated child
    except BaseException as error:  # noqa: BLE001  every way to leave the tests early is a failure
        return _failure(error, "", tests)
    return "passed", ""


def _failure(error: BaseException, prefix: str, tests: str | None = None) -> tuple[str, str]:
    outcome = "memory" if isinstance(error, MemoryError) else "failed"
    return outcome, prefix + describe(error, tests)


def _candidate_names(peer: Peer, code: types.CodeType) -> dict[str, Any]:
    """Return the names that the tests use and the candidate defines.

    Built-in names stay the real ones, or a program could redefine `set` to pass a test that
    compares sets. They go to the program only when it defines no other name that the tests use (a
    task that asks for `sum`).
    """
    names = sorted(name for name in set(_names(code)) if not name.startswith("__"))
    own = [name for name in names if not hasattr(builtins, name)]
    found = peer.request("lookup", own)
    if not found:
        found = peer.request("lookup", [name for name in names if name not in own])
    return {name: found[name] for name in names if name in found}


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


# ---- code and tests in one process --------------------------------------------------------------


def run_inside(payload: dict[str, Any], report: Report, connection: int) -> None:
    """Run code and tests together, for tests that need the program's own classes."""
    outcome, detail = _run_together(payload["code"], payload["tests"])
    report([outcome, detail, payload["nonce"] if outcome == "passed" else ""])


def run_screen(payload: dict[str, Any], report: Report, connection: int) -> None:
    """Run many generated programs one after another, reporting each as it ends."""
    for code, tests in payload["programs"]:
        started = time.perf_counter()
        with _cpu_limit(payload["cpu_seconds"]):
            try:
                result = _run_together(code, tests)
            except _OutOfTime:
                result = "timeout", "over the CPU limit"
        report([*result, time.perf_counter() - started])


class _OutOfTime(BaseException):
    pass


def _run_together(code: str, tests: str) -> tuple[str, str]:
    try:
        compiled = compile(tests, "<tests>", "exec")
        exec(compiled, load_program(code, "solution"))  # noqa: S102  isolated child
    except _OutOfTime:
        raise
    except BaseException as error:  # noqa: BLE001  every way to leave the tests early is a failure
        return _failure(error, "", tests)
    return "passed", ""


@contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: types.FrameType | None) -> None:
        raise _OutOfTime

    signal.signal(signal.SIGPROF, stop)
    # Fires again for programs that swallow it once; those that always do meet the server's limit.
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


JOBS: dict[str, Callable[[dict[str, Any], Report, int], None]] = {
    "candidate": run_candidate,
    "judge": run_judge,
    "inside": run_inside,
    "screen": run_screen,
}
