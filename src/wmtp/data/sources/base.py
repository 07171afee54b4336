"""What a data source is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Generic, TypeVar

from wmtp.config.recipe import Section
from wmtp.data.example import Example
from wmtp.errors import DataError

ConfigT = TypeVar("ConfigT", bound=Section)


class Source(ABC, Generic[ConfigT]):
    """A named origin of examples.

    A final subclass nests its settings as `Config` and yields examples in a fixed order. It reads a
    real file or builds real data; a missing file is a `DataError` that says how to get it.

    licence: of the data, such as "MIT"; "yours" where the user brings them. notices: what a reader
    of the examples should know, such as how many records were skipped; filled while they are read.
    """

    Config: ClassVar[type[Section]]
    licence: ClassVar[str] = "yours"
    split_names: ClassVar[tuple[str, ...]] = ("train", "validation", "test")

    def __init__(self, config: ConfigT) -> None:
        self.config = config
        self.notices: list[str] = []

    def splits(self) -> tuple[str, ...]:
        """Return the names of all splits."""
        return self.split_names

    @abstractmethod
    def examples(self, split: str) -> Iterator[Example]:
        """Yield the examples of one split; an unknown split is a `DataError` naming those known."""


class Skips:
    """What is left out of the data, counted; with the policy "error" the first is raised instead."""

    def __init__(self, policy: str, what: str) -> None:
        self.policy = policy
        self.what = what
        self.count = 0
        self.first: DataError | None = None

    def add(self, error: DataError) -> None:
        """Count what `error` names, or raise it."""
        if self.policy == "error":
            raise error
        self.count += 1
        self.first = self.first or error

    def notices(self) -> list[str]:
        """Return one line with the count and the first case, or nothing if nothing was left out."""
        return [f"{self.what} skipped: {self.count}; the first: {self.first}"] if self.count else []


def require_new(task_id: str, seen: set[str], where: str) -> None:
    """Add a task to those seen; one that was there already is a `DataError`."""
    if task_id in seen:
        raise DataError(f"{where}: task_id {task_id} appears twice. Use one copy of the file.")
    seen.add(task_id)
