"""The judge: the process that runs the tests. It never runs the program.

One process may examine several programs, one after another, as long as nothing of one is left for
the next. What a program sends becomes plain data and references in a conversation of its own
(`peer.py`), and these live in the globals of the tests, which every run has anew. So tests that by
their text can change nothing else (`analysis.leave_nothing`) are run again, until a run ends in any
other way than `passed` or `failed`, or leaves an object, memory or time used behind. All other tests
have a process for every program.
"""

from __future__ import annotations

import contextvars
import gc
import importlib
import json
import resource
import socket
import sys
import time
import types
import weakref
from dataclasses import dataclass, field
from typing import Any

from wmtp.sandbox import wire
from wmtp.sandbox.analysis import leave_nothing, may_need_one_process, names_left_to_the_program
from wmtp.sandbox.candidate import Report
from wmtp.sandbox.failures import TEXT_LENGTH, describe, failure
from wmtp.sandbox.peer import CannotCross, Gone, Peer

MOST_RUNS = 256
MOST_CPU_SECONDS = 1.0  # of all runs; so no run has less than its own limit
MOST_GROWTH_BYTES = 8 << 20
# What the caches of abstract classes consist of. They hold nothing else alive.
INERT = (weakref.ref, types.BuiltinFunctionType)


@dataclass(frozen=True, slots=True)
class Tests:
    """Tests made ready. code is None where they cannot be used; `problem` says why."""

    text: str
    code: types.CodeType | None = None
    wanted: list[str] = field(default_factory=list)
    again: bool = False
    problem: str = ""


def prepare(text: str) -> Tests:
    """Return the tests in `text`, and whether they can be run again in this process."""
    try:
        code = compile(text, "<tests>", "exec")
        wanted = names_left_to_the_program(text)
        again = leave_nothing(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Tests(text, problem=describe(error))
    return Tests(text, code, wanted, again)


def run_judge(payload: dict[str, Any], report: Report, line: int) -> None:
    """Run the tests against each candidate whose conversation arrives on `line`.

    What goes back is `[outcome, detail, seconds, whether this process goes on]`.
    """
    channel = socket.socket(fileno=line)
    tests = prepare(payload["tests"])
    traces = Traces()
    for number in range(1, MOST_RUNS + 1):
        try:
            _, [conversation] = wire.receive_with_descriptors(channel)
        except EOFError:
            return
        report(None)  # limits are those of one run
        started = time.perf_counter()
        outcome, detail, whole = converse(conversation, tests)
        seconds = time.perf_counter() - started
        goes_on = tests.again and whole and number < MOST_RUNS and traces.are_none()
        wire.send(channel, json.dumps([outcome, detail, seconds, goes_on]).encode())
        if not goes_on:
            return


def converse(conversation: int, tests: Tests) -> tuple[str, str, bool]:
    """Return `examine` of the candidate at the other end of the descriptor `conversation`."""
    with socket.socket(fileno=conversation) as connection:
        # In a context of its own, as that of decimal numbers is part of it.
        return contextvars.Context().run(examine, Peer(connection), tests)


class Traces:
    """What runs may leave in this process, compared with what there was at its start."""

    def __init__(self) -> None:
        contextvars.Context(), repr([0])  # the first of each makes what all others share
        gc.collect()
        gc.freeze()
        self._objects = _num_objects()
        self._peak = _peak_bytes()

    def are_none(self) -> bool:
        """Return whether no object is left, and little memory and time were used."""
        sys.stdout.flush()  # output counts for the run that printed it
        gc.collect()
        return (
            _num_objects() <= self._objects
            and _peak_bytes() - self._peak < MOST_GROWTH_BYTES
            and time.process_time() < MOST_CPU_SECONDS
        )


def _num_objects() -> int:
    """Return how many objects that can hold others there are, beside those frozen."""
    return sum(not isinstance(value, INERT) for value in gc.get_objects())


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def examine(peer: Peer, tests: Tests) -> tuple[str, str, bool]:
    """Run the tests against the candidate behind `peer`.

    Return outcome, detail, and whether the conversation took its course and a verdict came of it.
    """
    whole = True
    try:
        outcome, detail = _run(peer, tests)
    except BaseException as error:  # noqa: BLE001  such as no memory left to describe a failure
        outcome, detail = "failed", f"{type(error).__name__} on the way to say how"
        whole = False
    if isinstance(peer.fault, Gone):
        outcome, detail = peer.fault.outcome, str(peer.fault)
    elif isinstance(peer.fault, CannotCross):
        needed = may_need_one_process(tests.text)
        outcome, detail = "cannot_cross" if needed else "failed", str(peer.fault)
    whole = whole and peer.fault is None and outcome in ("passed", "failed")
    return outcome, detail[:TEXT_LENGTH], whole


def _run(peer: Peer, tests: Tests) -> tuple[str, str]:
    if tests.code is None:
        return "broken_tests", tests.problem
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        namespace.update(_candidate_names(peer, tests.wanted))
    except BaseException as error:  # noqa: BLE001  raised by the program
        return failure(error, "while the program was loaded: ")
    try:
        exec(tests.code, namespace)  # noqa: S102  isolated child
    except BaseException as error:  # noqa: BLE001  every way to leave the tests early is a failure
        return failure(error, "", tests.text)
    return "passed", ""


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
