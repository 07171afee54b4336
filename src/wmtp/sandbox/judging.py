"""The order in which programs go to slots, and what happens when a run has to be repeated."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from socket import socket

from wmtp.sandbox.conclusion import Again
from wmtp.sandbox.program import AnyProgram, Verdict
from wmtp.sandbox.slot import Attempt, Slot, wait

# After so many second tries in a row that changed nothing, it is not the machine that is slow.
ALONE_IN_VAIN = 3


class Judging:
    """One pass over `programs`. Holds no more of them than there are slots."""

    def __init__(self, slots: list[Slot], programs: Iterable[AnyProgram]) -> None:
        self._idle = list(slots)
        self._busy: list[Slot] = []
        self._fresh = (Attempt(i, program) for i, program in enumerate(programs))
        self._repeats: deque[Attempt] = deque()
        self._alone_in_vain = 0

    def run(self) -> Iterator[tuple[int, Verdict]]:
        """Yield index and verdict of each program as they finish."""
        while True:
            while self._idle and (attempt := self._next()) is not None:
                self._start(attempt)
            if not self._busy:
                return
            for slot, ready in wait(self._busy):
                if slot not in self._busy:
                    continue
                done = self._lost(slot) if ready is None else self._advance(slot, ready)
                if done is not None:
                    yield done

    def _next(self) -> Attempt | None:
        """Return what to start now. An attempt that must run alone waits for all others to end."""
        if any(slot.attempt and slot.attempt.alone for slot in self._busy):
            return None
        if self._repeats:
            if not self._repeats[0].alone:
                return self._repeats.popleft()
            return None if self._busy else self._repeats.popleft()
        return next(self._fresh, None)

    def _start(self, attempt: Attempt) -> None:
        slot = self._idle.pop()
        slot.start(attempt)
        self._busy.append(slot)

    def _advance(self, slot: Slot, ready: socket) -> tuple[int, Verdict] | None:
        try:
            reports = slot.advance(ready)
        except (OSError, EOFError):
            return self._lost(slot)
        if reports is None:
            return None
        return self._settle(slot, slot.conclude(reports))

    def _lost(self, slot: Slot) -> tuple[int, Verdict] | None:
        """Replace the servers of a slot that died or fell silent."""
        slot.close()
        return self._settle(slot, Again("fault", Verdict("error", 0.0, "sandbox fault: it died")))

    def _settle(self, slot: Slot, result: Verdict | Again) -> tuple[int, Verdict] | None:
        attempt = slot.attempt
        assert attempt is not None
        slot.attempt = None
        self._busy.remove(slot)
        self._idle.append(slot)
        if isinstance(result, Verdict):
            if attempt.alone:
                self._alone_in_vain = 0
            return attempt.index, result
        if result.why == "fault":
            slot.close()
        repeat = {
            "inside": replace(attempt, inside=True),
            "alone": replace(attempt, alone=True),
            "fault": replace(attempt, after_fault=True, alone=True),
            "fresh": replace(attempt, fresh=True),
            "next": Attempt(
                attempt.index,
                attempt.program,
                case=attempt.case + 1,
                cpu_before=result.cpu_seconds,
                wall_before=result.verdict.seconds,
            ),
        }[result.why]
        if repeat == attempt:  # it has been repeated for this before
            self._alone_in_vain += result.why == "alone"
            return attempt.index, result.verdict
        in_vain = self._alone_in_vain >= ALONE_IN_VAIN and not slot.judge_was_used
        if result.why == "alone" and in_vain:
            return attempt.index, result.verdict
        self._repeats.append(repeat)
        return None
