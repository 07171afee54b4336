"""One place where programs run, one at a time, and the fork servers that it uses."""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import IO, Any

from wmtp.errors import SandboxError
from wmtp.sandbox.conclusion import Again, conclude_inside, conclude_split
from wmtp.sandbox.judge_process import JudgeProcess
from wmtp.sandbox.launch import ServerProcess
from wmtp.sandbox.program import AnyProgram, Limits, Program, StdioProgram, Verdict
from wmtp.sandbox.stdio import Streams, conclude_stdio

SILENCE_SECONDS = 30.0  # beyond its wall limit, after which a server counts as broken
# A server of its own for each kind of job, so that no program runs where tests have been before.
JOBS_OF = {
    "candidate": ("candidate", "stdio"),
    "judge": ("judge",),
    "together": ("inside", "screen"),
}
JUDGE_GRACE_SECONDS = 2.0  # the judge's limits end later, so that the program's own come first


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a program. index: its place in the input.

    fresh: in a judge that was not used before. case: the test that a program on standard streams is
    run on; cpu_before, wall_before: what the tests before it took.
    """

    index: int
    program: AnyProgram
    inside: bool = False
    alone: bool = False
    after_fault: bool = False
    fresh: bool = False
    case: int = 0
    cpu_before: float = 0.0
    wall_before: float = 0.0


class Slot:
    """Runs one attempt at a time; `sockets` become readable when `advance` has something to do.

    judge_was_used: the judge of the last attempt had served another program before.
    """

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.attempt: Attempt | None = None
        self._servers: dict[str, ServerProcess] = {}
        self._reports: dict[str, dict[str, Any]] = {}
        self._expected: set[str] = set()
        self._run = 0
        self._nonce = ""
        self._streams: Streams | None = None
        self._judge: JudgeProcess | None = None
        self._judge_works = False
        self.judge_was_used = False
        self.deadline = 0.0

    def start(self, attempt: Attempt) -> None:
        """Begin an attempt; `SandboxError` when a server cannot be had."""
        self._begin(attempt.program.limits)
        self.attempt = attempt
        program, limits = attempt.program, attempt.program.limits
        if isinstance(program, StdioProgram):
            self._streams = Streams(program.cases[attempt.case][0])
            descriptors = self._streams.descriptors()
            self._ask("candidate", "stdio", limits, {"code": program.code}, descriptors)
            return
        if attempt.inside:
            self._nonce = secrets.token_hex(16)
            request = {"code": program.code, "tests": program.tests, "nonce": self._nonce}
            self._ask("together", "inside", limits, request)
            return
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._ask("candidate", "candidate", limits, {"code": program.code}, [ours.fileno()])
            self._have_judged(program, theirs, attempt.fresh or attempt.alone)

    def _have_judged(self, program: Program, conversation: socket.socket, fresh: bool) -> None:
        """Give the conversation with the program to a judge that has its tests."""
        judge = self._judge
        if judge is None or fresh or not judge.suits(program) or not judge.begin(conversation):
            self._end_judge()
            judge = self._judge = self._start_judge(program)
            judge.begin(conversation)
        self._judge_works = True

    def _start_judge(self, program: Program) -> JudgeProcess:
        limits = program.limits
        later = replace(
            limits,
            wall_seconds=limits.wall_seconds + JUDGE_GRACE_SECONDS,
            cpu_seconds=limits.cpu_seconds + JUDGE_GRACE_SECONDS,
        )
        line, theirs = socket.socketpair()
        with theirs:
            self._ask("judge", "judge", later, {"tests": program.tests}, [theirs.fileno()])
        self._expected.discard("judge")  # what it finds comes over the line
        return JudgeProcess(program.tests, limits, self._run, line)

    def _end_judge(self) -> None:
        """End the judge and take in the report on that, so that its server is free."""
        judge, self._judge = self._judge, None
        if judge is None:
            return
        judge.line.close()
        try:
            self._servers["judge"].send({"job": "stop", "run": judge.run})
            report = self._servers["judge"].receive(SILENCE_SECONDS)
        except (OSError, EOFError, KeyError):
            report = {"dirty": True}
        if report.get("dirty") and "judge" in self._servers:
            self._servers.pop("judge").close()

    def start_screen(self, programs: list[Program], cpu_seconds: float, limits: Limits) -> None:
        """Begin a batch of generated programs; its report is that of the role `together`."""
        self._begin(limits)
        pairs = [(program.code, program.tests) for program in programs]
        self._ask("together", "screen", limits, {"programs": pairs, "cpu_seconds": cpu_seconds})

    def sockets(self) -> list[socket.socket]:
        """Return the sockets that a report is awaited on."""
        controls = [self._servers[role].control for role in self._expected]
        return [*controls, self._judge.line] if self._judge and self._judge_works else controls

    def advance(self, ready: socket.socket) -> dict[str, dict[str, Any]] | None:
        """Take in a report; return all reports of the run when they are complete."""
        judge = self._judge
        if judge is not None and ready is judge.line:
            self._judge_works, self.judge_was_used = False, judge.programs > 1
            if judge.hear():
                self._reports["judge"] = judge.report()
            else:
                self._expected.add("judge")
            if "candidate" in self._expected:
                self._servers["candidate"].send({"job": "stop", "run": self._run})
        else:
            role = next(r for r, s in self._servers.items() if s.control is ready)
            report = self._servers[role].receive()
            self._expected.discard(role)
            if role == "judge" and judge is not None:
                judge.line.close()
                report, self._judge = judge.report(report), None
            self._reports[role] = report
        if self._expected or self._judge_works:
            return None
        for role in self._reports:
            if self._reports[role].get("dirty"):
                self._servers.pop(role).close()
        return self._reports

    def conclude(self, reports: dict[str, dict[str, Any]]) -> Verdict | Again:
        """Return what the reports of the current attempt mean."""
        assert self.attempt is not None
        program, limits = self.attempt.program, self.attempt.program.limits
        if isinstance(program, StdioProgram):
            assert self._streams is not None
            before = self.attempt.cpu_before, self.attempt.wall_before
            return conclude_stdio(
                reports["candidate"], self._streams, program, self.attempt.case, *before
            )
        if self.attempt.inside:
            return conclude_inside(reports["together"], self._nonce, limits)
        return conclude_split(reports["judge"], reports["candidate"], limits, self.judge_was_used)

    def close(self) -> None:
        """End the servers and everything in them."""
        self._expected.clear()
        self._drop_streams()
        self._judge_works = False
        if self._judge is not None:
            self._judge.line.close()
            self._judge = None
        while self._servers:
            self._servers.popitem()[1].close()

    def _begin(self, limits: Limits) -> None:
        self._drop_streams()
        self._run += 1
        self._reports = {}
        self._expected = set()
        self._judge_works = self.judge_was_used = False
        self.deadline = time.monotonic() + limits.wall_seconds + SILENCE_SECONDS

    def _drop_streams(self) -> None:
        if self._streams is not None:
            self._streams.close()
            self._streams = None

    def _ask(
        self,
        role: str,
        job: str,
        limits: Limits,
        payload: dict[str, Any],
        others: Sequence[int] = (),
    ) -> None:
        message = {"job": job, "run": self._run, "limits": asdict(limits)}
        with _memory_file() as file:
            file.write(json.dumps(payload).encode())
            file.seek(0)
            self._send(role, message, [file.fileno(), *others])
        self._expected.add(role)

    def _send(self, role: str, message: dict[str, Any], descriptors: list[int]) -> None:
        """Send to the server of `role`; one that died since its last run is replaced."""
        if role in self._servers:
            try:
                self._servers[role].send(message, descriptors)
                return
            except OSError:
                self._servers.pop(role).close()
        self._servers[role] = ServerProcess(self.tier, JOBS_OF[role])
        try:
            self._servers[role].send(message, descriptors)
        except OSError as error:
            raise SandboxError(f"a fork server died as soon as it had started: {error}") from error


def _memory_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("payload"), "w+b")
    return tempfile.TemporaryFile()


def wait(slots: Iterable[Slot]) -> list[tuple[Slot, socket.socket | None]]:
    """Return pairs of slot and readable socket; the socket is None for a slot that is overdue."""
    awaited = {s.fileno(): (slot, s) for slot in slots for s in slot.sockets()}
    poll = select.poll()
    for descriptor in awaited:
        poll.register(descriptor, select.POLLIN)
    soonest = min(slot.deadline for slot, _ in awaited.values())
    ready = poll.poll(max(0.0, soonest - time.monotonic()) * 1000)
    if ready:
        return [awaited[descriptor] for descriptor, _ in ready]
    now = time.monotonic()
    return [(slot, None) for slot in {s for s, _ in awaited.values()} if slot.deadline <= now]
