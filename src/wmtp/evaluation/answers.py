"""Final answers instead of programs: what is compared, and the judge that compares it within limits."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from wmtp.errors import SandboxError
from wmtp.sandbox import OutcomeName, Verdict
from wmtp.sandbox.pool import available_cores

_LONGEST = 200
_SERVER = Path(__file__).with_name("equivalence.py")


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """Bounds of one symbolic comparison.

    It waits for nothing, so CPU time is the bound; wall time stands behind it and is long, because a
    busy machine must not change a verdict.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 120.0
    memory_bytes: int = 2 << 30


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """An answer to compare. given: what the completion says, None where it says none.

    symbolic: LaTeX that counts as right when math-verify finds it equal; otherwise the text must be
    `expected` itself.
    """

    given: str | None
    expected: str
    symbolic: bool = False
    limits: AnswerLimits = AnswerLimits()


class AnswerJudge:
    """Compares final answers; stands where `Sandbox` does for programs.

    Nothing that a model wrote is run. Symbolic comparison takes place in `workers` processes (default:
    as many as there are cores) that fork a child with limits for each answer, and start when needed.
    """

    tier = "none: answers are compared, no program is run"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or available_cores()
        self._idle: queue.LifoQueue[_Server | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)

    def close(self) -> None:
        """End all processes. The judge can be used again after."""
        for server in [self._idle.get() for _ in range(self.workers)]:
            if server is not None:
                server.close()
            self._idle.put(None)

    def judge(self, answers: Iterable[FinalAnswer]) -> Iterator[tuple[int, Verdict]]:
        """Yield the place in the input and the verdict of each answer, as they are known.

        A process that ends twice over one answer gives the outcome `error`, which is no verdict.
        """
        symbolic: list[tuple[int, FinalAnswer]] = []
        for index, answer in enumerate(answers):
            if answer.given is None:
                yield index, Verdict("failed", 0.0, "no final answer")
            elif answer.given == answer.expected:
                yield index, Verdict("passed", 0.0)
            elif answer.symbolic:
                symbolic.append((index, answer))
            else:
                yield index, Verdict("failed", 0.0, f"{_shown(answer)} is another answer")
        with ThreadPoolExecutor(self.workers) as pool:
            futures = {pool.submit(self._compare, answer): index for index, answer in symbolic}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _compare(self, answer: FinalAnswer) -> Verdict:
        start = time.monotonic()
        server = self._idle.get()
        try:
            for _ in range(2):
                server = server or _Server()
                with contextlib.suppress(OSError, ValueError):
                    outcome, detail = server.compare(answer)
                    if outcome == "failed":
                        detail = f"{_shown(answer)}: {detail}"
                    return Verdict(outcome, time.monotonic() - start, detail)
                server.close()
                server = None
            return Verdict("error", time.monotonic() - start, "the comparing process ended twice")
        finally:
            self._idle.put(server)


def _shown(answer: FinalAnswer) -> str:
    """Return what was answered in one line, cut to a length that a detail may have."""
    text = repr(answer.given)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


class _Server:
    """A running `equivalence.py`."""

    def __init__(self) -> None:
        if find_spec("math_verify") is None:
            raise SandboxError(
                "answers in LaTeX are compared by math-verify, which is not installed. Install "
                "wmtp[eval]."
            )
        # -I: neither this folder, whose math.py would hide the library's, nor the user's is searched.
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"LANG": "C.UTF-8", "PATH": os.defpath},
            cwd="/",
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def compare(self, answer: FinalAnswer) -> tuple[OutcomeName, str]:
        """Return outcome and detail; `OSError` or `ValueError` when the process is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        limits = answer.limits
        request = {
            "expected": answer.expected,
            "given": answer.given,
            "cpu_seconds": limits.cpu_seconds,
            "wall_seconds": limits.wall_seconds,
            "memory_bytes": limits.memory_bytes,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        return found["outcome"], found["detail"]

    def close(self) -> None:
        """Kill the process and the child it may have; returns when it is dead."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
