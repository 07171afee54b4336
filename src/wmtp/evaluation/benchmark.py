"""What a benchmark is: tasks, how they are asked, and how an answer becomes a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from wmtp.config.recipe import Section
from wmtp.sandbox import Program

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


class Benchmark(ABC, Generic[ConfigT]):
    """A named set of tasks; a final subclass nests its settings as `Config`.

    stop: strings that end a completion (the stop string is cut off). max_new_tokens: default bound.
    """

    Config: ClassVar[type[Section]]
    stop: ClassVar[tuple[str, ...]] = ()
    max_new_tokens: int = 256

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @abstractmethod
    def tasks(self) -> list[Task]:
        """Return all tasks in a fixed order."""

    @abstractmethod
    def program(self, task: Task, completion: str) -> Program:
        """Return the program that decides whether `completion` solves `task`."""
