"""What a data source is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import chain
from typing import ClassVar, Generic, TypeVar

from wmtp.config.section import Section
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

    def all_examples(self) -> Iterator[Example]:
        """Yield the examples of all splits."""
        return chain.from_iterable(self.examples(split) for split in self.split_names)

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


def digest(text: str) -> bytes:
    """Return 16 bytes that stand for `text`."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def unrepeated(
    placed: Iterable[tuple[str, Example]],
    again: Callable[[], Iterable[tuple[str, Example]]],
    repeated: Skips,
    key: Callable[[Example], str] = repr,
) -> Iterator[Example]:
    """Yield the examples of `placed`, which come with their places, without those whose key was there.

    Of an example that was yielded, memory holds a digest only. again: returns what `placed` was, to
    look for the place of the first of two.
    """
    seen: set[bytes] = set()
    for where, example in placed:
        identity = digest(key(example))
        if identity not in seen:
            seen.add(identity)
            yield example
            continue
        known = (place for place, other in again() if digest(key(other)) == identity)
        first = "one before it" if repeated.count else next(known, "one before it")
        repeated.add(DataError(f"{where}: repeats {first}. Remove one of the two."))


def require_new(task_id: str, seen: set[str], where: str) -> None:
    """Add a task to those seen; one that was there already is a `DataError`."""
    if task_id in seen:
        raise DataError(f"{where}: task_id {task_id} appears twice. Use one copy of the file.")
    seen.add(task_id)
