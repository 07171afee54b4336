"""What runs inside an isolated child: the candidate, the judge, generated programs, or a
whole program on standard streams.

Each job gets its payload, a function `report` that hands results (JSON-able) to the fork server,
and the descriptor of the conversation with the other process, if the job has one.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import os
import signal
import socket
import symtable
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wmtp.sandbox.peer import CannotCross, Gone, Peer
from wmtp.sandbox.references import OBJECT_OPERATIONS
from wmtp.sandbox.stdio import run_stdio

Report = Callable[[Any], None]

REPORT = 4  # the descriptor behind `report`
TEXT_LENGTH = 10_000  # of what is reported about an error; a verdict keeps less of it


def load_program(code: str, name: str) -> dict[str, Any]:
    """Run `code` as the module `name` and return its globals; what it raises is raised."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(code, f"<{name}>", "exec"), module.__dict__)  # noqa: S102  isolated child
    return module.__dict__


def describe(error: BaseException, tests: str | None = None) -> str:
    """Return a text about `error`, with the failing line of `tests` when they are given."""
    name = getattr(error, "candidate_name", type(error).__name__)
    try:
        text = str(error)[:TEXT_LENGTH]
    except BaseException as inner:  # noqa: BLE001  the error may be the program's own class
        text = f"(its text cannot be had: {type(inner).__name__})"
    where = ""
    if tests is not None:
        lines = [n for f, n in traceback.walk_tb(error.__traceback__) if _is_tests(f)]
        if lines:
            where = (
                f" at line {lines[-1]} of the tests: {tests.splitlines()[lines[-1] - 1].strip()}"
            )
    return f"{name[:100]}{': ' if text else ''}{text}{where}"


def _is_tests(frame: types.FrameType) -> bool:
    return frame.f_code.co_filename == "<tests>"


# ---- the candidate ------------------------------------------------------------------------------


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


# ---- the judge ----------------------------------------------------------------------------------


def run_judge(payload: dict[str, Any], report: Report, connection: int) -> None:
    """Run the tests against a candidate in another process and report how they ended."""
    judge_over(Peer(socket.socket(fileno=connection)), payload["tests"], report)


def judge_over(peer: Peer, tests: str, report: Report) -> None:
    """Run the tests against the candidate behind `peer` and report how they ended."""
    try:
        outcome, detail = _judge(peer, tests)
    except BaseException as error:  # noqa: BLE001  such as no memory left to describe a failure
        outcome, detail = "failed", f"{type(error).__name__} on the way to say how"
    if isinstance(peer.fault, Gone):
        outcome, detail = peer.fault.outcome, str(peer.fault)
    elif isinstance(peer.fault, CannotCross):
        outcome = "cannot_cross" if _may_need_one_process(tests) else "failed"
        detail = str(peer.fault)
    report([outcome, detail[:TEXT_LENGTH]])


def _judge(peer: Peer, tests: str) -> tuple[str, str]:
    try:
        code = compile(tests, "<tests>", "exec")
        wanted = names_left_to_the_program(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return "broken_tests", describe(error)
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        namespace.update(_candidate_names(peer, wanted))
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


def _candidate_names(peer: Peer, wanted: list[str]) -> dict[str, Any]:
    """Return what the program defines of the names `wanted`.

    A module of the standard library is imported here: the program's own may be changed.
    """
    reply = peer.request("lookup", wanted)
    if type(reply) is not list or list(map(type, reply)) != [list, dict]:
        raise peer.gone("malformed", "an answer to `lookup` that is not in the protocol")
    modules, values = reply
    found = {name: values[name] for name in wanted if name in values}
    for name in wanted:
        if name in modules and name in sys.stdlib_module_names:
            found[name] = importlib.import_module(name)
    return found


def names_left_to_the_program(tests: str) -> list[str]:
    """Return the global names that `tests` read and that neither they nor Python define.

    A name that the tests assign is among them, for it may be read before: `f = cache(f)`. Built-in
    names are Python's, or a program could redefine `set` to pass a test that compares sets. Where
    the tests read no name but a built-in one, that is what the task asks for and the program's.
    Where they read several, which one it is cannot be told: a `ValueError`.
    """
    top = symtable.symtable(tests, "<tests>", "exec")
    defined = {s.get_name() for s in top.get_symbols() if s.is_imported() or s.is_namespace()}
    assigned = {s.get_name() for s in top.get_symbols() if s.is_assigned()}
    read = sorted({n for n in _global_reads(top) if not n.startswith("__")} - defined)
    own = [name for name in read if not hasattr(builtins, name)]
    if assigned.issuperset(own):
        functions = [name for name in read if name not in own and not _is_exception(name)]
        if len(functions) > 1:
            raise ValueError(
                f"all functions that they call are Python's own ({', '.join(functions)}), and which "
                "one the program has to define cannot be told; write those of Python as "
                "`builtins.name` after `import builtins`"
            )
        return own + functions
    return own


def _global_reads(table: symtable.SymbolTable) -> Iterator[str]:
    module = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (module or symbol.is_global()):
            yield symbol.get_name()
    for inner in table.get_children():
        yield from _global_reads(inner)


def _is_exception(name: str) -> bool:
    value = getattr(builtins, name)
    return isinstance(value, type) and issubclass(value, BaseException)


def _may_need_one_process(tests: str) -> bool:
    """Return whether `tests` have a statement that can make what does not cross.

    Where there is none, only a program can have brought about that something does not cross.
    """
    makers = (ast.ClassDef, ast.Import, ast.ImportFrom, ast.AsyncFunctionDef)
    return any(isinstance(node, makers) for node in ast.walk(ast.parse(tests)))


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
    "stdio": run_stdio,
}
