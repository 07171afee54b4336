"""The embedded benchmark: small Python problems with verified correct and incorrect solutions.

A seeded grammar composes operations on lists and strings. Words, solutions and hidden tests come
from the composition; the tests from its meaning, not from the solutions' code. Incorrect solutions
are mutants of correct ones that fail the tests when they are run in the sandbox.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice, zip_longest
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from wmtp.config.recipe import Section
from wmtp.data.example import Example
from wmtp.data.mutation import Mutant, mutants
from wmtp.data.sources.base import Source
from wmtp.data.sources.minicode.domains import numbers, text
from wmtp.data.sources.minicode.problems import Problem, compose, make_problem
from wmtp.data.sources.minicode.rendering import Style, solutions
from wmtp.data.splits import require_split
from wmtp.data.syntax import Range
from wmtp.errors import DataError, SandboxError
from wmtp.sandbox import Limits, Program, Sandbox

SPLITS = ("train", "validation", "test")
LIMITS = Limits(cpu_seconds=2.0, wall_seconds=20.0, memory_bytes=256 << 20)

Share = Annotated[float, Field(ge=0)]


class ProblemSection(Section):
    """Which problems there are: shared by the training data and the benchmark."""

    num_problems: int = Field(3000, gt=0, description="Problems over all levels and splits.")
    level_shares: tuple[Share, ...] = Field(
        (0.05, 0.55, 0.3, 0.1),
        min_length=1,
        max_length=5,
        strict=False,
        description="Shares of problems with 1, 2, ... operations; scaled to sum to 1.",
    )
    largest_constant: int = Field(
        4, ge=3, le=9, description="Constants in words and code are 2 to this: fewer are easier."
    )
    text_share: float = Field(0.0, ge=0, le=1, description="Share of problems about strings.")
    seed: int = Field(0, ge=0, description="Draws problems, wording, inputs, styles and faults.")

    @model_validator(mode="after")
    def _some_level(self) -> ProblemSection:
        if not sum(self.level_shares):
            raise ValueError("level_shares are all 0; give at least one level a share")
        return self


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
            description="Ways to write solutions; fewer are easier.",
        )
        incorrect_per_problem: int = Field(
            2, ge=0, description="Incorrect solutions, as far as mutation finds failing ones."
        )

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the examples of one split, problem by problem, correct before incorrect."""
        require_split("minicode", split, SPLITS)
        yield from build(self.config).examples[split]


@dataclass(frozen=True, slots=True)
class Minicodes:
    """All examples by split, and how many there are of what."""

    examples: dict[str, tuple[Example, ...]]
    counts: dict[str, int]


def make_problems(config: ProblemSection) -> list[Problem]:
    """Return the problems of all splits, level by level; no program is run."""
    problems: dict[str, Problem] = {}
    scale = config.num_problems / sum(config.level_shares)
    for level, share in enumerate(config.level_shares, start=1):
        rng = random.Random(f"minicode/{config.seed}/{level}")
        wanted = len(problems) + round(share * scale)
        for _ in range(1000 + 20 * wanted):
            if len(problems) >= wanted:
                break
            is_text = rng.random() < config.text_share
            domain = text() if is_text else numbers(config.largest_constant)
            problem = make_problem(domain, compose(domain, level, rng), config.seed)
            if problem is not None:
                problems.setdefault(problem.key, problem)
        else:
            raise DataError(
                f"minicode: found only {len(problems)} different problems up to level {level}, "
                f"{wanted} are asked for. Lower num_problems or the share of this level in "
                "level_shares."
            )
    return list(problems.values())


def task_id(problem: Problem) -> str:
    """Return the identity of a problem's composition, the same under all settings."""
    digest = hashlib.sha256(problem.key.encode()).hexdigest()[:12]
    return f"minicode/{problem.level}-{digest}"


@lru_cache(maxsize=2)
def build(config: Minicode.Config) -> Minicodes:
    """Return all examples of `config`, verified by running them; built once per process.

    The same settings give the same bytes in every process. counts: `problems`, `correct`,
    `incorrect`, `equivalent` (mutants that passed all tests and were dropped), `undecided` (mutants
    that did not end: whether time or memory runs out first depends on the machine; dropped too).
    """
    problems = make_problems(config)
    number, styles = config.solutions_per_problem, config.styles
    correct = [solutions(problem, number, styles) for problem in problems]
    # The programs are ours: list and string operations with slips. Bounding them is enough, and so
    # the data can be built even where model-written programs could not be isolated.
    with Sandbox(mode="limits-only") as sandbox:
        _verify(sandbox, problems, correct)
        search = _FaultSearch(problems, correct, config.incorrect_per_problem)
        search.run(sandbox)
    examples: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for problem, bodies, faults in zip(problems, correct, search.found, strict=True):
        examples[problem.split] += [_example(problem, body, 1.0) for body in bodies]
        examples[problem.split] += [_example(problem, f.code, 0.0, f.spans) for f in faults]
    counts = {
        "problems": len(problems),
        "correct": sum(map(len, correct)),
        "incorrect": sum(map(len, search.found)),
        "equivalent": search.equivalent,
        "undecided": search.undecided,
    }
    return Minicodes({split: tuple(found) for split, found in examples.items()}, counts)


def _example(problem: Problem, body: str, reward: float, spans: tuple[Range, ...] = ()) -> Example:
    return Example(
        task_id=task_id(problem),
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


def program(problem: Problem, body: str) -> Program:
    """Return the program that decides whether `body` solves `problem`."""
    return Program(problem.prompt + body, problem.tests, LIMITS)


def _verify(sandbox: Sandbox, problems: list[Problem], correct: list[list[str]]) -> None:
    """Run every rendered solution; one that does not pass is a bug of the grammar."""
    programs = [
        program(problem, body)
        for problem, bodies in zip(problems, correct, strict=True)
        for body in bodies
    ]
    for judged, verdict in zip(programs, sandbox.screen(programs), strict=True):
        if verdict.outcome == "failed":
            raise AssertionError(f"wrong rendering ({verdict.detail}):\n{judged.code}")
        if verdict.outcome != "passed":
            raise SandboxError(
                f"a correct minicode solution ended as {verdict.outcome} ({verdict.detail}), so no "
                "verdict here can be trusted. Run again with more free memory and processor time."
            )


class _FaultSearch:
    """Mutants of correct solutions, run until each problem has enough that fail."""

    def __init__(self, problems: list[Problem], correct: list[list[str]], wanted: int) -> None:
        self.found: list[list[Mutant]] = [[] for _ in problems]
        self.equivalent = self.undecided = 0
        self._problems = problems
        self._wanted = wanted
        self._candidates = [
            _candidates(problem, bodies, limit=3 * wanted)
            for problem, bodies in zip(problems, correct, strict=True)
        ]

    def run(self, sandbox: Sandbox) -> None:
        """Try as many mutants at once as are still missing, until there are no more."""
        while batch := [
            (index, mutant)
            for index, candidates in enumerate(self._candidates)
            for mutant in islice(candidates, self._wanted - len(self.found[index]))
        ]:
            verdicts = sandbox.screen([program(self._problems[i], m.code) for i, m in batch])
            for (index, mutant), verdict in zip(batch, verdicts, strict=True):
                if verdict.outcome == "error":
                    raise SandboxError(f"the sandbox broke: {verdict.detail}")
                if verdict.outcome == "failed":
                    self.found[index].append(mutant)
                elif verdict.outcome == "passed":
                    self.equivalent += 1
                else:
                    self.undecided += 1


def _candidates(problem: Problem, bodies: list[str], limit: int) -> Iterator[Mutant]:
    """Yield different mutants of the bodies in turn; code and spans are those of the body."""
    start = len(problem.prompt)
    groups = [
        mutants(
            problem.prompt + body,
            region=(start, start + len(body)),
            seed=f"{problem.seed}/{number}",
            limit=limit,
        )
        for number, body in enumerate(bodies)
    ]
    seen = set(bodies)
    for mutant in chain.from_iterable(zip_longest(*groups)):
        if mutant is not None and mutant.code[start:] not in seen:
            seen.add(mutant.code[start:])
            spans = tuple((low - start, high - start) for low, high in mutant.spans)
            yield Mutant(mutant.code[start:], spans, mutant.operator)
