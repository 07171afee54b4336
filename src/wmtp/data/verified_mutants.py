"""Incorrect examples from correct ones: mutants that were run and failed.

A mutant (`mutation`) is only a candidate. What it is worth is for the tests to say: one that fails
is an incorrect example whose fault is known, one that passes every test is taken for equivalent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, zip_longest
from typing import Literal

from wmtp.data.example import Example
from wmtp.data.mutation import Mutant, mutants
from wmtp.data.syntax import Range
from wmtp.sandbox import Limits, OutcomeName, Program, Verdict

Run = Callable[[Iterable[Program]], Iterable[tuple[int, Verdict]]]
"""Runs programs and yields the place and the verdict of each, such as `Sandbox.judge`."""

Outcome = Literal["failed", "equivalent", "timeout", "error"]
OUTCOMES: dict[OutcomeName, Outcome] = {
    "failed": "failed",
    "passed": "equivalent",
    "timeout": "timeout",
    # Which limit an endless program meets first depends on the machine.
    "memory": "timeout",
    "output_limit": "timeout",
    "error": "error",
}
# Candidates that are tried for each mutant that is wanted; some pass, some do not end.
TRIES = 4


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for.

    wanted: mutants per group of examples. seed: draws faults. limits: bounds of one program.
    count_timeouts: whether a mutant that ran over a limit is one of those wanted.
    """

    wanted: int
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    count_timeouts: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """A mutant that was run. spans: changed characters of `completion`."""

    origin: Example
    completion: str
    spans: tuple[Range, ...]
    operator: str
    verdict: Verdict

    @property
    def outcome(self) -> Outcome:
        """What became of it: `timeout` when it broke any limit, `error` when nothing is known."""
        return OUTCOMES[self.verdict.outcome]

    def example(self) -> Example:
        """Return the mutant as an example; one that passed has reward 1 and no fault."""
        passed = self.outcome == "equivalent"
        return replace(
            self.origin,
            completion=self.completion,
            reward=1.0 if passed else 0.0,
            fault_spans=() if passed else self.spans,
        )


@dataclass(slots=True)
class Found:
    """A group of correct completions of one problem, and what running them and mutants gave.

    verdicts: of the originals. trials: the mutants, in the order in which they were drawn.
    """

    originals: tuple[Example, ...]
    verdicts: list[Verdict] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)


def search(
    groups: Iterable[Sequence[Example]],
    run: Run,
    settings: Search,
    progress: Callable[[int, int], None] | None = None,
) -> list[Found]:
    """Return for each group its originals' verdicts and mutants until enough of them failed.

    Groups are not empty and all examples have tests. Originals run first, and only those that pass
    are mutated, in turn. What is found depends on the verdicts alone, not on the order in which `run`
    yields them; it is called again when verdicts led to programs after it had taken all there were.
    progress: called with the numbers of groups done and in all.
    """
    found = [Found(tuple(group)) for group in groups]
    waiting = (_Course(_steps(result, settings)) for result in found)
    ready: deque[tuple[_Course, int]] = deque()
    done = 0
    while True:
        started: list[tuple[_Course, int]] = []
        for index, verdict in run(_next_programs(waiting, ready, started)):
            course, place = started[index]
            ready.extend((course, n) for n in course.settle(place, verdict))
            if course.ended:
                done += 1
                if progress is not None:
                    progress(done, len(found))
        if not ready:
            return found


def program_of(example: Example, completion: str, limits: Limits) -> Program:
    """Return the program that decides whether `completion` solves the problem of `example`."""
    assert example.tests is not None
    return Program(example.code_prefix + completion, example.tests, limits)


class _Course:
    """The steps of one group: programs that may run at the same time, until all have verdicts."""

    def __init__(self, steps: Generator[list[Program], list[Verdict], None]) -> None:
        self.ended = False
        self._steps = steps
        self._begin(next(steps))

    def _begin(self, programs: list[Program]) -> None:
        self.programs = programs
        self._verdicts: dict[int, Verdict] = {}

    def settle(self, place: int, verdict: Verdict) -> range:
        """Take one verdict and return the places of the programs that may start now."""
        self._verdicts[place] = verdict
        if len(self._verdicts) < len(self.programs):
            return range(0)
        try:
            self._begin(self._steps.send([self._verdicts[n] for n in sorted(self._verdicts)]))
        except StopIteration:
            self.ended = True
            return range(0)
        return range(len(self.programs))


def _next_programs(
    waiting: Iterator[_Course],
    ready: deque[tuple[_Course, int]],
    started: list[tuple[_Course, int]],
) -> Iterator[Program]:
    """Yield programs of groups under way before those of new ones, and note them in `started`."""
    while True:
        while not ready:
            course = next(waiting, None)
            if course is None:
                return
            ready.extend((course, n) for n in range(len(course.programs)))
        course, place = ready.popleft()
        started.append((course, place))
        yield course.programs[place]


def _steps(found: Found, settings: Search) -> Generator[list[Program], list[Verdict], None]:
    """Yield the programs of each step and take their verdicts, filling `found`."""
    found.verdicts = yield [
        program_of(original, original.completion, settings.limits) for original in found.originals
    ]
    candidates = _candidates(found, settings)
    missing = settings.wanted
    while batch := list(islice(candidates, missing)):
        verdicts = yield [
            program_of(origin, mutant.code, settings.limits) for origin, mutant in batch
        ]
        for (origin, mutant), verdict in zip(batch, verdicts, strict=True):
            trial = Trial(origin, mutant.code, mutant.spans, mutant.operator, verdict)
            found.trials.append(trial)
            missing -= trial.outcome == "failed"
            missing -= trial.outcome == "timeout" and settings.count_timeouts


def _candidates(found: Found, settings: Search) -> Iterator[tuple[Example, Mutant]]:
    """Yield different mutants of the passing originals in turn; code and spans are completions'."""
    groups = [
        _mutants_of(original, f"{settings.seed}/{original.task_id}/{number}", settings.wanted)
        for number, original in enumerate(found.originals)
        if found.verdicts[number].outcome == "passed"
    ]
    seen = {original.completion for original in found.originals}
    for pair in chain.from_iterable(zip_longest(*groups)):
        if pair is not None and pair[1].code not in seen:
            seen.add(pair[1].code)
            yield pair


def _mutants_of(example: Example, seed: str, wanted: int) -> list[tuple[Example, Mutant]]:
    """Return mutants of the completion; none where the parser of this Python cannot walk it."""
    start = len(example.code_prefix)
    code = example.code_prefix + example.completion
    try:
        drawn = mutants(code, region=(start, len(code)), seed=seed, limit=TRIES * wanted)
    except SyntaxError:
        return []
    return [
        (
            example,
            Mutant(
                mutant.code[start:],
                tuple((low - start, high - start) for low, high in mutant.spans),
                mutant.operator,
            ),
        )
        for mutant in drawn
    ]
