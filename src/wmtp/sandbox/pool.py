"""The sandbox: many programs over a few slots."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Literal

from wmtp.sandbox import tiers
from wmtp.sandbox.judging import Judging
from wmtp.sandbox.program import AnyProgram, Program, Verdict
from wmtp.sandbox.screening import Screening
from wmtp.sandbox.slot import Slot

Mode = Literal["auto", "limits-only"]


class Sandbox:
    """Runs untrusted programs, each isolated from this machine, from the others and from its tests.

    mode: "auto" takes the strongest isolation that works here and raises `SandboxError` when there
    is none; "limits-only" accepts resource limits without isolation. workers: programs that run at
    the same time; default: the cores this process may use. Use it as a context manager; on leaving,
    every process it started is dead.
    """

    def __init__(self, mode: Mode = "auto", workers: int | None = None) -> None:
        self.tier = tiers.choose(mode)
        self.workers = workers or available_cores()
        self._slots = [Slot(self.tier) for _ in range(self.workers)]

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all servers and what runs in them. The sandbox can be used again after."""
        for slot in self._slots:
            slot.close()

    def judge(self, programs: Iterable[AnyProgram]) -> Iterator[tuple[int, Verdict]]:
        """Yield the place in the input and the verdict of each program, as they finish.

        `programs` is consumed only as fast as slots come free. A sandbox fault that survives one
        retry gives the outcome `error`; a sandbox that cannot be started again, a `SandboxError`.
        """
        try:
            yield from Judging(self._slots, programs).run()
        finally:
            _abandon(self._slots)

    def screen(self, programs: Sequence[Program], cpu_seconds: float = 0.5) -> list[Verdict]:
        """Return the verdicts on programs that wmtp itself generated, in order; the fast path.

        Many programs share an isolated process, code and tests run together, and each has
        `cpu_seconds` of CPU time. That is safe for this machine but a program that meant to could
        fake its result: never use it for what a model wrote.
        """
        try:
            return Screening(self._slots, programs, cpu_seconds).run()
        finally:
            _abandon(self._slots)


def _abandon(slots: list[Slot]) -> None:
    """End the servers of slots whose run was not waited for."""
    for slot in slots:
        if slot.sockets():
            slot.close()


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
