"""What a benchmark is: tasks, how they are asked, and how an answer becomes a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from wmtp.config.section import Section
from wmtp.evaluation.answers import FinalAnswer
from wmtp.evaluation.extraction import Extraction
from wmtp.sandbox import EXACT, AnyProgram, Comparison, Limits, Verdict

ConfigT = TypeVar("ConfigT", bound=Section)


@dataclass(frozen=True, slots=True)
class Task:
    """One problem of a benchmark.

    task_id: unique in the benchmark. prompt: what the model continues. tests: Python source that
    raises when the program is wrong. code_prefix: stands before the completion to make it a program
    ("" when the completion is the whole program). reference: a completion that passes, or None.
    difficulty: larger is harder, or None. io_tests: for a program that reads standard input, pairs
    of input and expected output, compared by `comparison`; there are no other tests then. limits:
    of the task, where they are not the benchmark's. note: what a reader of its verdicts should know.
    """

    task_id: str
    prompt: str
    tests: str = ""
    code_prefix: str = ""
    reference: str | None = None
    difficulty: float | None = None
    io_tests: tuple[tuple[str, str], ...] = ()
    comparison: Comparison = EXACT
    limits: Limits | None = None
    note: str = ""


class Judge(Protocol):
    """Gives verdicts on what `Benchmark.program` returns: a `Sandbox` or an `AnswerJudge`."""

    tier: str

    def judge(self, programs: Iterable[Any]) -> Iterator[tuple[int, Verdict]]:
        """Yield the place in the input and the verdict of each, as they finish."""
        ...

    def close(self) -> None:
        """End what is running for it."""
        ...


class Benchmark(ABC, Generic[ConfigT]):
    """A named set of tasks; a final subclass nests its settings as `Config`.

    stop: strings that end a completion (the stop string is cut off). max_new_tokens: default bound.
    extraction: the default rule that finds the code in a completion. also_known_as: beginnings of
    task ids that others use, each with ours. notices: what a reader of a score should know, such as
    problems that were left out; filled by `tasks`. compares_answers: `program` returns a `FinalAnswer`,
    for an `AnswerJudge` in place of a sandbox.
    """

    Config: ClassVar[type[Section]]
    compares_answers: ClassVar[bool] = False
    stop: ClassVar[tuple[str, ...]] = ()
    max_new_tokens: int = 256
    extraction: ClassVar[Extraction] = "code"
    also_known_as: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init__(self, config: ConfigT) -> None:
        self.config = config
        self.notices: list[str] = []

    @abstractmethod
    def tasks(self) -> list[Task]:
        """Return all tasks in a fixed order."""

    @abstractmethod
    def program(self, task: Task, completion: str) -> AnyProgram | FinalAnswer:
        """Return what decides whether `completion` solves `task`."""
