"""What runs inside an isolated child: the candidate, the judge, generated programs, or a
whole program on standard streams.

Each job gets its payload, a function `report` that hands results (JSON-able) to the fork server,
and the descriptor of the conversation with the other process, if the job has one.
"""

from __future__ import annotations

import signal
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wmtp.sandbox.candidate import Report, load_program, run_candidate
from wmtp.sandbox.examination import run_judge
from wmtp.sandbox.failures import failure
from wmtp.sandbox.stdio import run_stdio


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
        return failure(error, "", tests)
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
