"""The fast path for generated programs: batches of them in one child."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wmtp.sandbox.conclusion import Again, conclude_died, results_of
from wmtp.sandbox.program import Limits, Program, Verdict
from wmtp.sandbox.slot import Slot, wait

BATCH = 64


class Screening:
    """One pass over `programs`. A batch whose child dies goes on after the one that killed it."""

    def __init__(self, slots: list[Slot], programs: Sequence[Program], cpu_seconds: float) -> None:
        self._slots = slots
        self._programs = programs
        self._cpu_seconds = cpu_seconds
        self._verdicts: list[Verdict | None] = [None] * len(programs)
        size = max(1, min(BATCH, -(-len(programs) // len(slots))))
        starts = range(0, len(programs), size)
        self._batches = deque(list(range(s, min(s + size, len(programs)))) for s in starts)
        self._running: dict[Slot, list[int]] = {}
        self._again: set[int] = set()

    def run(self) -> list[Verdict]:
        """Return the verdicts in the order of the programs."""
        while self._batches or self._running:
            for slot in self._slots:
                if slot not in self._running and self._batches:
                    self._start(slot, self._batches.popleft())
            for slot, ready in wait(list(self._running)):
                self._finish(slot, ready)
        return [verdict for verdict in self._verdicts if verdict is not None]

    def _limits(self, batch: list[int]) -> Limits:
        limits = self._programs[batch[0]].limits
        # The child stops a program itself; the server steps in when that was not enough.
        return replace(limits, cpu_seconds=2 * self._cpu_seconds + 0.5)

    def _start(self, slot: Slot, batch: list[int]) -> None:
        programs = [self._programs[i] for i in batch]
        slot.start_screen(programs, self._cpu_seconds, self._limits(batch))
        self._running[slot] = batch

    def _finish(self, slot: Slot, ready: Any) -> None:
        batch = self._running.pop(slot)
        try:
            reports = slot.advance(ready) if ready is not None else None
        except (OSError, EOFError):
            reports = None
        if reports is None:
            slot.close()
            report = {"cause": "died", "wall": 0.0, "results": []}
        else:
            report = reports["together"]
        results = results_of(report)[: len(batch)]
        for i, (outcome, detail, seconds) in zip(batch, results, strict=False):
            self._verdicts[i] = Verdict(outcome, seconds, detail)
        if len(results) < len(batch):
            self._continue(batch[len(results) :], report)

    def _continue(self, batch: list[int], report: dict[str, Any]) -> None:
        """Run the program that ended the child once more by itself, and the others after it."""
        culprit, rest = batch[0], batch[1:]
        if rest:
            self._batches.appendleft(rest)
        if culprit not in self._again:
            self._again.add(culprit)
            self._batches.appendleft([culprit])
            return
        result = conclude_died(report, self._limits([culprit]))
        self._verdicts[culprit] = result.verdict if isinstance(result, Again) else result
