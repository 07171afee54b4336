"""The embedded benchmark: small Python problems with verified correct and incorrect solutions.

A seeded grammar fills kinds of problems: words, solutions and hidden tests come from what fills
them; the tests from its meaning, not from the solutions' code. Incorrect solutions are mutants of
correct ones that fail the tests when they are run in the sandbox.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import tee
from typing import ClassVar

from pydantic import Field

from wmtp.data.example import Example
from wmtp.data.sources.base import Source
from wmtp.data.sources.minicode.grammar import ProblemSection, iterate_problems, solutions
from wmtp.data.sources.minicode.problems import Problem
from wmtp.data.sources.minicode.rendering import Style
from wmtp.data.sources.minicode.verification import Draft, Faults, verify
from wmtp.data.splits import require_split
from wmtp.data.syntax import Range
from wmtp.sandbox.pool import available_cores

SPLITS = ("train", "validation", "test")
LARGE = 10_000  # problems from which on they are built by several processes and not kept


class Minicode(Source):
    """Problems of the grammar with solutions; 85 % train, 5 % validation, 10 % test.

    The split of a composition is fixed by its hash, whatever the settings.
    """

    licence: ClassVar[str] = "Apache 2.0"

    class Config(ProblemSection):
        """Settings of the source."""

        solutions_per_problem: int = Field(
            2, gt=0, description="Correct solutions, as far as there are different ones."
        )
        styles: tuple[Style, ...] = Field(
            ("steps", "loops"),
            min_length=1,
            strict=False,
            description="Ways to write pipelines; fewer are easier. Other kinds have their own.",
        )
        incorrect_per_problem: int = Field(
            2, ge=0, description="Incorrect solutions, as far as mutation finds failing ones."
        )

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the examples of one split, problem by problem, correct before incorrect."""
        require_split("minicode", split, SPLITS)
        if self.config.num_problems < LARGE:
            yield from build(self.config).examples[split]
            return
        for solved in stream(self.config, split, workers=available_cores()):
            yield from solved.examples()


@dataclass(frozen=True, slots=True)
class Solved:
    """A problem with correct function bodies, and the faults found in them."""

    problem: Problem
    correct: tuple[str, ...]
    faults: Faults

    def examples(self) -> Iterator[Example]:
        """Yield the examples, correct before incorrect."""
        for body in self.correct:
            yield _example(self.problem, body, 1.0)
        for fault in self.faults.found:
            yield _example(self.problem, fault.code, 0.0, fault.spans)

    def counts(self) -> dict[str, int]:
        """Return how many there are of what; see `build`."""
        return {
            "problems": 1,
            "correct": len(self.correct),
            "incorrect": len(self.faults.found),
            "equivalent": self.faults.equivalent,
            "undecided": self.faults.undecided,
        }


@dataclass(frozen=True, slots=True)
class Minicodes:
    """All examples by split, and how many there are of what."""

    examples: dict[str, tuple[Example, ...]]
    counts: dict[str, int]


def stream(config: Minicode.Config, split: str | None = None, workers: int = 1) -> Iterator[Solved]:
    """Yield the problems of one split (default: of all) with verified solutions, as they are built.

    Few are in memory at a time. `workers`, the number of processes, does not change what is yielded.
    """
    problems = (p for p in iterate_problems(config) if split in (None, p.split))
    ahead, written = tee((problem, _draft(problem, config)) for problem in problems)
    faults = verify((draft for _, draft in ahead), config.incorrect_per_problem, workers)
    for (problem, draft), found in zip(written, faults, strict=True):
        yield Solved(problem, draft.bodies, found)


def _draft(problem: Problem, config: Minicode.Config) -> Draft:
    bodies = solutions(problem, config.solutions_per_problem, config.styles)
    return Draft(problem.prompt, problem.tests, tuple(bodies), problem.seed)


@lru_cache(maxsize=2)
def build(config: Minicode.Config) -> Minicodes:
    """Return all examples of `config`, verified by running them; built once per process.

    The same settings give the same bytes in every process. counts: `problems`, `correct`,
    `incorrect`, `equivalent` (mutants that passed all tests and were dropped), `undecided` (mutants
    that did not end: whether time or memory runs out first depends on the machine; dropped too).
    """
    examples: dict[str, list[Example]] = {split: [] for split in SPLITS}
    counts: Counter[str] = Counter()
    for solved in stream(config):
        examples[solved.problem.split] += solved.examples()
        counts.update(solved.counts())
    return Minicodes({split: tuple(found) for split, found in examples.items()}, dict(counts))


def _example(problem: Problem, body: str, reward: float, spans: tuple[Range, ...] = ()) -> Example:
    return Example(
        task_id=problem.task_id,
        prompt=problem.prompt,
        completion=body,
        reward=reward,
        tests=problem.tests,
        code_prefix=problem.prompt,
        difficulty=float(problem.level),
        source="minicode",
        split=problem.split,
        fault_spans=spans,
    )
