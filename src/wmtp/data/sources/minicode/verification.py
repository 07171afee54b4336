"""Every solution is run: correct ones must pass, and mutants of them count only when they fail."""

from __future__ import annotations

import atexit
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from itertools import chain, islice, zip_longest
from typing import NamedTuple

from wmtp.data.mutation import Mutant, mutants
from wmtp.errors import SandboxError
from wmtp.sandbox import Limits, Program, Sandbox

LIMITS = Limits(cpu_seconds=2.0, wall_seconds=20.0, memory_bytes=256 << 20)
SCREEN_SECONDS = 0.1  # a solution takes about one thousandth of this; loops without end take it all
CHUNK = 128  # problems per task of a worker; has no influence on what comes out


class Draft(NamedTuple):
    """A problem's prompt and tests, correct function bodies, and the seed of its faults."""

    prompt: str
    tests: str
    bodies: tuple[str, ...]
    seed: str


class Faults(NamedTuple):
    """Mutants that fail, with spans in the body; how many passed; how many did not end."""

    found: tuple[Mutant, ...]
    equivalent: int
    undecided: int


def verify(drafts: Iterable[Draft], wanted: int, workers: int = 1) -> Iterator[Faults]:
    """Yield up to `wanted` faults for each draft, in order; read only a little ahead of it.

    workers: processes that share the work; with 1 it is done here, over all cores of the sandbox.
    What is yielded does not depend on it. A correct solution that fails is an `AssertionError`; one
    that cannot be judged, a `SandboxError`.
    """
    pending = iter(drafts)
    chunks = iter(lambda: list(islice(pending, CHUNK)), [])
    if workers == 1:
        with _sandbox() as sandbox:
            for chunk in chunks:
                yield from _verify_chunk(sandbox, chunk, wanted)
        return
    # Not forked: what calls this may hold threads and devices.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context)
    running: deque[Future[list[Faults]]] = deque()
    try:
        for chunk in chunks:
            running.append(executor.submit(_verify_in_worker, chunk, wanted))
            if len(running) > 2 * workers:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _sandbox(workers: int | None = None) -> Sandbox:
    # The programs are ours: small functions with slips. Bounding them is enough, and so the data
    # can be built even where model-written programs could not be isolated.
    return Sandbox(mode="limits-only", workers=workers)


@cache
def _sandbox_of_worker() -> Sandbox:
    """Return the sandbox that a worker keeps until it ends."""
    sandbox = _sandbox(workers=1)
    atexit.register(sandbox.close)
    return sandbox


def _verify_in_worker(chunk: list[Draft], wanted: int) -> list[Faults]:
    return _verify_chunk(_sandbox_of_worker(), chunk, wanted)


def _verify_chunk(sandbox: Sandbox, chunk: list[Draft], wanted: int) -> list[Faults]:
    _require_correct(sandbox, chunk)
    search = _FaultSearch(chunk, wanted)
    search.run(sandbox)
    return search.faults()


def program(prompt: str, body: str, tests: str) -> Program:
    """Return the program that decides whether `body` solves the problem."""
    return Program(prompt + body, tests, LIMITS)


def _require_correct(sandbox: Sandbox, chunk: list[Draft]) -> None:
    """Run every rendered solution; one that does not pass is a bug of the grammar."""
    programs = [program(d.prompt, body, d.tests) for d in chunk for body in d.bodies]
    verdicts = sandbox.screen(programs, SCREEN_SECONDS)
    for judged, verdict in zip(programs, verdicts, strict=True):
        if verdict.outcome == "failed":
            raise AssertionError(f"wrong rendering ({verdict.detail}):\n{judged.code}")
        if verdict.outcome != "passed":
            raise SandboxError(
                f"a correct minicode solution ended as {verdict.outcome} ({verdict.detail}), so no "
                "verdict here can be trusted. Run again with more free memory and processor time."
            )


class _FaultSearch:
    """Mutants of correct solutions, run until each problem has enough that fail."""

    def __init__(self, chunk: list[Draft], wanted: int) -> None:
        self._chunk = chunk
        self._wanted = wanted
        self._found: list[list[Mutant]] = [[] for _ in chunk]
        self._equivalent = [0] * len(chunk)
        self._undecided = [0] * len(chunk)
        self._candidates = [_candidates(draft, limit=3 * wanted) for draft in chunk]

    def faults(self) -> list[Faults]:
        """Return what was found for each problem."""
        found = map(tuple, self._found)
        return list(map(Faults, found, self._equivalent, self._undecided))

    def run(self, sandbox: Sandbox) -> None:
        """Try as many mutants at once as are still missing, until there are no more."""
        while batch := [
            (index, mutant)
            for index, candidates in enumerate(self._candidates)
            for mutant in islice(candidates, self._wanted - len(self._found[index]))
        ]:
            programs = [
                program(self._chunk[i].prompt, m.code, self._chunk[i].tests) for i, m in batch
            ]
            verdicts = sandbox.screen(programs, SCREEN_SECONDS)
            for (index, mutant), verdict in zip(batch, verdicts, strict=True):
                if verdict.outcome == "error":
                    raise SandboxError(f"the sandbox broke: {verdict.detail}")
                if verdict.outcome == "failed":
                    self._found[index].append(mutant)
                elif verdict.outcome == "passed":
                    self._equivalent[index] += 1
                else:
                    self._undecided[index] += 1


def _candidates(draft: Draft, limit: int) -> Iterator[Mutant]:
    """Yield different mutants of the bodies in turn; code and spans are those of the body."""
    start = len(draft.prompt)
    groups = [
        mutants(
            draft.prompt + body,
            region=(start, start + len(body)),
            seed=f"{draft.seed}/{number}",
            limit=limit,
        )
        for number, body in enumerate(draft.bodies)
    ]
    seen = set(draft.bodies)
    for mutant in chain.from_iterable(zip_longest(*groups)):
        if mutant is not None and mutant.code[start:] not in seen:
            seen.add(mutant.code[start:])
            spans = tuple((low - start, high - start) for low, high in mutant.spans)
            yield Mutant(mutant.code[start:], spans, mutant.operator)
