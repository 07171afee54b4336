"""What a benchmark is: tasks, how they are asked, and how an answer becomes a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from wmtp.config.recipe import Section
from wmtp.evaluation.answers import FinalAnswer
from wmtp.sandbox import Program, Verdict

ConfigT = TypeVar("ConfigT", bound=Section)


@dataclass(frozen=True, slots=True)
class Task:
    """One problem of a benchmark.

    task_id: unique in the benchmark. prompt: what the model continues. tests: Python source that
    raises when the program is wrong. code_prefix: stands before the completion to make it a program
    ("" when the completion is the whole program). reference: a completion that passes, or None.
    difficulty: larger is harder, or None.
    """

    task_id: str
    prompt: str
    tests: str
    code_prefix: str = ""
    reference: str | None = None
    difficulty: float | None = None


class Judge(Protocol):
    """Gives verdicts on what `Benchmark.program` returns: a `Sandbox` or an `AnswerJudge`."""

    tier: str

    def judge(self, programs: Iterable[Any]) -> Iterator[tuple[int, Verdict]]:
        """Yield the place in the input and the verdict of each, as they finish."""
        ...


class Benchmark(ABC, Generic[ConfigT]):
    """A named set of tasks; a final subclass nests its settings as `Config`.

    stop: strings that end a completion (the stop string is cut off). max_new_tokens: default bound.
    compares_answers: `program` returns a `FinalAnswer`, for an `AnswerJudge` in place of a sandbox.
    """

    Config: ClassVar[type[Section]]
    compares_answers: ClassVar[bool] = False
    stop: ClassVar[tuple[str, ...]] = ()
    max_new_tokens: int = 256

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @abstractmethod
    def tasks(self) -> list[Task]:
        """Return all tasks in a fixed order."""

    @abstractmethod
    def program(self, task: Task, completion: str) -> Program | FinalAnswer:
        """Return what decides whether `completion` solves `task`."""
