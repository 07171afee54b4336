"""What a data source is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Generic, TypeVar

from wmtp.config.recipe import Section
from wmtp.data.example import Example

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

    def __init__(self, config: ConfigT) -> None:
        self.config = config
        self.notices: list[str] = []

    @abstractmethod
    def examples(self, split: str) -> Iterator[Example]:
        """Yield the examples of one split; an unknown split is a `DataError` naming those known."""
