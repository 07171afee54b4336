"""Programs that read standard input and write standard output: how one is run, and what it proves.

The program runs as `__main__` in a fresh process for every test. Its three standard streams are
files of the caller's: the input, and two that start empty. What is expected never enters the sandbox,
and what a program wrote never passes through the fork server, whose memory a later program inherits.
"""

from __future__ import annotations

import atexit
import os
import site
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from typing import IO, Any

from wmtp.sandbox.conclusion import Again, Report, ended_early, fault_of, faulty, limit_of
from wmtp.sandbox.program import StdioProgram, Verdict

ERROR_TAIL_BYTES = 2000  # of standard error, to say how a program failed


# ---- in the child -------------------------------------------------------------------------------


def run_stdio(payload: dict[str, Any], report: Callable[[Any], None], first: int) -> None:
    """Run a program and end the process as the interpreter would.

    The descriptors from `first` on are its input, output and errors.
    """
    for stream in range(3):
        os.dup2(first + stream, stream)
        os.close(first + stream)
    sys.argv = ["program.py"]
    site.setquit()  # `exit` and `quit`, which a server starts without
    os._exit(_exit_status(payload["code"]))


def _exit_status(code: str) -> int:
    """Run `code` as the main program, with all that comes at the end of one; return its status."""
    status = 0
    for step in (lambda: _run_main(code), _join_threads, atexit._run_exitfuncs):
        try:
            step()
        except SystemExit as error:
            status = _status_of(error.code)
        except BaseException:  # noqa: BLE001  whatever the program raised
            status = 1
            sys.excepthook(*sys.exc_info())
    return status if _flushed() else 120  # as the interpreter says it


def _run_main(code: str) -> None:
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    exec(compile(code, "program.py", "exec"), module.__dict__)  # noqa: S102  isolated child


def _join_threads() -> None:
    """Wait for the program's threads, as at the end of any program, but not for daemons."""
    if "threading" not in sys.modules:
        return
    import threading  # not in a fork server: it has much to do after every fork

    while True:
        others = [
            thread
            for thread in threading.enumerate()
            if thread is not threading.current_thread() and not thread.daemon
        ]
        if not others:
            return
        for thread in others:
            thread.join()


def _status_of(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _flushed() -> bool:
    for stream in (sys.stdout, sys.stderr):
        try:
            if not stream.closed:
                stream.flush()
        except (OSError, ValueError, AttributeError):
            return False
    return True


# ---- outside ------------------------------------------------------------------------------------


class Streams:
    """The files behind the standard streams of one run. The input can be read only."""

    def __init__(self, given: str) -> None:
        import tempfile  # not in a fork server, whose children would each pay for its memory

        with tempfile.NamedTemporaryFile() as file:
            file.write(given.encode("utf-8", "surrogatepass"))
            file.flush()
            self._given = open(file.name, "rb")  # noqa: SIM115  closed by `close`
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115

    def descriptors(self) -> list[int]:
        """Return the descriptors of input, output and errors."""
        return [file.fileno() for file in (self._given, self._output, self._errors)]

    def output(self, limit_bytes: int) -> str | None:
        """Return what the program wrote; None when that is more than `limit_bytes`."""
        self._output.seek(0)
        data = self._output.read(limit_bytes + 1)
        return None if len(data) > limit_bytes else data.decode("utf-8", "replace")

    def last_error_line(self) -> str:
        """Return the last line of standard error, such as the exception that ended the program."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - ERROR_TAIL_BYTES))
        lines = self._errors.read(ERROR_TAIL_BYTES).decode("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """Remove the files."""
        for file in (self._given, self._output, self._errors):
            file.close()


def conclude_stdio(
    report: Report,
    streams: Streams,
    program: StdioProgram,
    case: int,
    cpu_before: float,
    wall_before: float,
) -> Verdict | Again:
    """Judge the run of test number `case`: go on with the next one, or say what it is.

    cpu_before, wall_before: what the tests before it took.
    """
    result = _of_one(report, streams, program, case, cpu_before)
    wall = wall_before + report["wall"]
    if isinstance(result, Again):
        return replace(result, verdict=replace(result.verdict, seconds=wall))
    if result is None:
        result = Verdict("passed", wall)
        if case + 1 < len(program.cases):
            return Again("next", result, cpu_before + report["cpu"])
    return replace(result, seconds=wall)


def _of_one(
    report: Report, streams: Streams, program: StdioProgram, case: int, cpu_before: float
) -> Verdict | Again | None:
    """Return None when the program passed the test."""
    limits = program.limits
    fault = fault_of(report)
    if fault:
        return faulty(report, fault)
    where = f"test {case + 1} of {len(program.cases)}: "
    found = streams.output(limits.output_bytes)
    if found is None:
        return Verdict("output_limit", 0.0, f"{where}more than {limits.output_bytes} bytes")
    limit = limit_of(report, limits, report["wall"])
    if isinstance(limit, Again):
        detail = where + limit.verdict.detail
        return replace(limit, verdict=replace(limit.verdict, detail=detail))
    if limit is not None:
        return replace(limit, detail=where + limit.detail)
    if report["exit"] != 0:
        return _crashed(report, streams.last_error_line(), program, where)
    if cpu_before + report["cpu"] > program.total_cpu_seconds:
        detail = f"over the CPU limit of {program.total_cpu_seconds:g} s for all tests"
        return Verdict("timeout", 0.0, where + detail)
    difference = program.comparison.difference(found, program.cases[case][1])
    return None if difference is None else Verdict("failed", 0.0, where + difference)


def _crashed(report: Report, said: str, program: StdioProgram, where: str) -> Verdict:
    verdict = ended_early(report, program.limits, 0.0, "the program failed")
    outcome = "memory" if said.startswith("MemoryError") else verdict.outcome
    return Verdict(outcome, 0.0, f"{where}{verdict.detail}{': ' if said else ''}{said}")
