"""The fork server: a small process that runs each program in a child of its own and watches it.

It is started with a clean environment and never grows, so a fork costs the same however large the
calling program is. One server runs candidates and one runs judges; a server that runs judges never
runs untrusted code. It answers one request at a time over its control socket and ends, with every
process inside, when that socket closes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from wmtp.sandbox import seccomp, wire
from wmtp.sandbox.candidate import REPORT
from wmtp.sandbox.codec import loads
from wmtp.sandbox.conclusion import ENTERED
from wmtp.sandbox.isolation import Cells, enter_room
from wmtp.sandbox.jobs import JOBS
from wmtp.sandbox.program import Limits
from wmtp.sandbox.rehearsal import rehearse

# Loaded once here so that programs find them at no cost. Those that are large or rarely used (hashlib
# alone brings sixteen mappings) are not: every fork pays for the memory of its server.
PRELOADED = (
    *("abc", "bisect", "collections", "contextlib", "copy", "dataclasses", "datetime", "decimal"),
    *("enum", "fractions", "functools", "heapq", "itertools", "json", "math", "numbers"),
    *("operator", "re", "string", "traceback", "types", "typing"),
)
REPORT_LIMIT_BYTES = 4 << 20
ENTERED_LINE = json.dumps(ENTERED).encode() + b"\n"
PAYLOAD, CONVERSATION = 3, 5  # descriptors of a child besides its standard streams and REPORT
SHORTEST_WAIT_SECONDS = 0.002


@dataclass
class Run:
    """One child and what is known about it."""

    pid: int
    limits: Limits
    output: int
    report: int
    started: float = field(default_factory=time.monotonic)
    cpu_base: float = 0.0
    wall_base: float = 0.0
    output_bytes: int = 0
    results: bytearray = field(default_factory=bytearray)
    cause: str = ""
    silent: bool = False
    ending: tuple[int, int, Any] | None = None

    def has_ended(self) -> bool:
        """Return whether the child is dead; a silent one is asked for it again and again."""
        found = os.wait4(self.pid, os.WNOHANG)
        self.ending = found if found[0] else None
        return self.ending is not None

    def cpu_seconds(self) -> float:
        """Return the CPU time of the child so far; 0 where the system cannot tell."""
        try:
            return time.clock_gettime((~self.pid << 3) | 2)  # CPUCLOCK_SCHED of another process
        except OSError:
            return 0.0

    def remaining(self) -> float:
        """Return how long to wait before the limits are looked at again; 0 when one is broken."""
        cpu = self.limits.cpu_seconds - (self.cpu_seconds() - self.cpu_base)
        wall = self.limits.wall_seconds - (time.monotonic() - self.started - self.wall_base)
        if cpu <= 0 or wall <= 0:
            self.cause = "cpu" if cpu <= 0 else "wall"
            return 0.0
        return max(SHORTEST_WAIT_SECONDS, min(cpu, wall))


class Server:
    """Answers requests on `control`, one after another."""

    def __init__(self, control: socket.socket, tier: str, jobs: tuple[str, ...]) -> None:
        self.control = control
        self.tier = tier
        self.jobs = jobs
        self.cells = Cells(
            namespaces=tier == "namespaces",
            own_user=tier != "limits-only",
            filtered=seccomp.is_supported(),
        )

    def serve(self) -> None:
        """Answer requests until the control socket closes."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                payload, descriptors = wire.receive_with_descriptors(self.control)
                request = json.loads(payload)
                if request["job"] == "stop":  # came too late: that run has been reported
                    continue
                if request["job"] not in self.jobs:  # above all: no code where tests have been
                    raise ValueError(f"this server does not run {request['job']!r}")
                self._send(self._run(request, descriptors))

    def _send(self, message: dict[str, Any]) -> None:
        wire.send(self.control, json.dumps(message).encode())

    def _run(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        with self._folder() as folder:
            message = self._run_in(folder, request, descriptors)
        if self.tier == "bubblewrap":
            message["dirty"] = bool(os.listdir("/tmp"))
        return message

    def _folder(self) -> contextlib.AbstractContextManager[str]:
        """Return where a program may write; without isolation it has to be removed after."""
        if self.tier == "limits-only":
            import tempfile  # brings much that the other tiers have no use for

            return tempfile.TemporaryDirectory(prefix="wmtp-", ignore_cleanup_errors=True)
        return contextlib.nullcontext("/tmp")

    def _run_in(
        self, folder: str, request: dict[str, Any], descriptors: list[int]
    ) -> dict[str, Any]:
        limits = Limits(**request["limits"])
        output, child_output = os.pipe()
        report, child_report = os.pipe()
        self.cells.prepare()
        pid = os.fork()
        if pid == 0:
            self._child(request, limits, folder, [*descriptors, child_output, child_report])
        for descriptor in (*descriptors, child_output, child_report):
            os.close(descriptor)
        run = Run(pid, limits, output, report)
        try:
            self._watch(run, request)
        finally:
            message = self._reap(run)
        return message

    def _child(
        self, request: dict[str, Any], limits: Limits, folder: str, descriptors: list[int]
    ) -> None:
        """Confine this process, do the job and exit; never returns."""
        status = 1
        try:
            payload, *conversation, output, report = descriptors
            gc.enable()
            os.setsid()
            null = os.open("/dev/null", os.O_RDWR)
            _place([null, output, output, payload, report, *conversation])
            os.chdir(folder)
            self.cells.enter(limits)
            os.write(REPORT, ENTERED_LINE)
            JOBS[request["job"]](_take_payload(), _report, CONVERSATION)
            status = 0
        except BaseException as error:  # noqa: BLE001  nothing may unwind into the server's loop
            with contextlib.suppress(OSError):
                _report({"fault": f"{type(error).__name__}: {error}"})
        finally:
            os._exit(status)

    def _watch(self, run: Run, request: dict[str, Any]) -> None:
        """Wait until the child ends, breaks a limit or is stopped; note which in `run.cause`."""
        poll = select.poll()
        for descriptor in (self.control.fileno(), run.output, run.report):
            poll.register(descriptor, select.POLLIN)
        os.set_blocking(run.output, False)
        while not run.cause:
            wait = run.remaining()
            if run.cause:
                return
            if run.silent:
                if run.has_ended():
                    run.cause = "ended"
                    return
                wait = SHORTEST_WAIT_SECONDS
            for descriptor, _ in poll.poll(wait * 1000):
                if descriptor == self.control.fileno():
                    run.cause = self._stopped(request)
                elif descriptor == run.output:
                    if not self._drain(run):
                        poll.unregister(run.output)
                elif not self._collect(run, request["job"]):
                    # A candidate has nothing to report: how it ends shows in the conversation. A
                    # program on streams has ended when its process has, whatever it closed before.
                    if request["job"] in ("candidate", "stdio"):
                        poll.unregister(run.report)
                        run.silent = request["job"] == "stdio"
                    else:
                        run.cause = run.cause or "ended"

    def _stopped(self, request: dict[str, Any]) -> str:
        message = json.loads(wire.receive(self.control))
        return "stopped" if message == {"job": "stop", "run": request["run"]} else ""

    def _drain(self, run: Run) -> bool:
        """Count and drop what the child printed; False at its end."""
        try:
            size = len(os.read(run.output, 1 << 16))
        except BlockingIOError:
            return True
        run.output_bytes += size
        if run.output_bytes > run.limits.output_bytes:
            run.cause = "output"
        return size > 0

    def _collect(self, run: Run, job: str) -> bool:
        """Take in reported results; False when the child has closed its end."""
        data = os.read(run.report, 1 << 16)
        run.results += data
        if len(run.results) > REPORT_LIMIT_BYTES:
            run.cause = "output"
        # Limits are per program. What reports here is the judge, or programs that are not hostile.
        if job in ("judge", "screen") and b"\n" in data:
            run.cpu_base = run.cpu_seconds()
            run.wall_base = time.monotonic() - run.started
            run.output_bytes = 0
        return bool(data)

    def _reap(self, run: Run) -> dict[str, Any]:
        """Kill what is left of the run and return how it ended."""
        ended, status, usage = run.ending or os.wait4(run.pid, os.WNOHANG)
        if self.tier == "limits-only":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(run.pid, signal.SIGKILL)
        if not ended:
            os.kill(run.pid, signal.SIGKILL)
            _, status, usage = os.wait4(run.pid, 0)
        self._drain(run)  # its last words count as well
        os.close(run.output)
        os.close(run.report)
        lines = bytes(run.results).split(b"\n")[:-1]
        return {
            "cause": run.cause,
            "ended_itself": bool(ended),
            "exit": os.waitstatus_to_exitcode(status),
            "cpu": usage.ru_utime + usage.ru_stime - run.cpu_base,
            "wall": time.monotonic() - run.started - run.wall_base,
            "results": [line.decode("utf-8", "replace") for line in lines],
        }


def _place(wanted: list[int]) -> None:
    """Make the descriptors `wanted` 0, 1, 2, ... and close all others."""
    high = [os.dup2(descriptor, 100 + i) for i, descriptor in enumerate(wanted)]
    for target, descriptor in enumerate(high):
        os.dup2(descriptor, target)
    os.closerange(len(wanted), os.sysconf("SC_OPEN_MAX"))


def _take_payload() -> dict[str, Any]:
    """Return the programs of the request, which the server itself never reads: what it had in its
    memory, a later program could find there."""
    parts = []
    while part := os.read(PAYLOAD, 1 << 20):
        parts.append(part)
    os.close(PAYLOAD)
    return loads(b"".join(parts))


def _report(result: Any) -> None:
    data = json.dumps(result).encode() + b"\n"
    while data:
        data = data[os.write(REPORT, data) :]


def main(control: int, tier: str, jobs: tuple[str, ...]) -> None:
    """Set up the room, say how that went, and serve."""
    for name in PRELOADED:
        importlib.import_module(name)
    channel = socket.socket(fileno=control)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if tier == "namespaces":
            enter_room()
        server = Server(channel, tier, jobs)
    except OSError as error:
        wire.send(channel, json.dumps({"failed": str(error)}).encode())
        sys.exit(1)
    rehearse(jobs)
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing here makes cycles, and looking for them copies pages; children enable it
    wire.send(channel, json.dumps({"ready": True}).encode())
    server.serve()
