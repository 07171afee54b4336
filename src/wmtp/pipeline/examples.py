"""Examples that a command names: those of a file, or of a registered source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pydantic import Field

from wmtp.config.load import Document
from wmtp.config.recipe import OpenSection
from wmtp.data.example import Example
from wmtp.data.example_files import read_file, require_ending, write_file
from wmtp.data.sources.base import Source
from wmtp.errors import ConfigError, DataError, OutputError, near_match
from wmtp.registry import SOURCES

ALL = "all"


class _Named(OpenSection):
    source: str = Field(description="Registered name.")


def open_source(name: str, settings: Iterable[str]) -> Source[Any]:
    """Return the registered source with `key=value` settings; mistakes are a `ConfigError`."""
    document = Document("data", {"source": name})
    document.override(settings)
    section = document.validate(_Named)
    named = SOURCES.get(section.source)
    source: Source[Any] = named(document.validate_options(section, named.Config, ()))
    return source


def source_examples(source: Source[Any], split: str) -> Iterator[Example]:
    """Yield the examples of one split, or of all splits in turn."""
    splits = source.splits() if split == ALL else (split,)
    return chain.from_iterable(source.examples(name) for name in splits)


def named_examples(
    file: Path | None, source: str | None, settings: Iterable[str], split: str
) -> Iterator[Example]:
    """Yield the examples of a file of examples, or of a source with its settings.

    Neither or both of them, or settings for a file, is a `ConfigError`.
    """
    if (file is None) == (source is None):
        raise ConfigError("Give a file of examples, or --source NAME: one of the two.")
    if source is not None:
        return source_examples(open_source(source, settings), split)
    assert file is not None
    if list(settings):
        raise ConfigError("--set is for --source: a file of examples has no settings.")
    return _of_split(file, split)


def _of_split(file: Path, split: str) -> Iterator[Example]:
    seen: set[str] = set()
    for example in read_file(file):
        seen.add(example.split)
        if split in (ALL, example.split):
            yield example
    if split != ALL and split not in seen:
        known = ", ".join(sorted(seen)) or "none"
        raise DataError(
            f"{file}: no example in split {split!r}.{near_match(split, seen)} Splits in this "
            f"file: {known}."
        )


def build(
    source: Source[Any], split: str, output: Path, *, limit: int | None = None
) -> dict[str, Any]:
    """Write the examples of a source to a new file and return how many there are of what.

    The counts are `examples` and those by `split`, `reward` and `difficulty`; with them come the
    source's `notices`. A source without a
    single example is a `DataError`, and then no file is written.
    """
    require_ending(output)
    require_new(output)
    counts: dict[str, Counter[str]] = {n: Counter() for n in ("split", "reward", "difficulty")}

    def counted() -> Iterator[Example]:
        for example in islice(source_examples(source, split), limit):
            for field, counter in counts.items():
                value = getattr(example, field)
                counter["unknown" if value is None else str(value)] += 1
            yield example
        if not counts["split"]:
            raise DataError(f"split {split!r} has no example. Check the source and the split.")

    write_file(output, counted())
    by_field = {field: dict(sorted(counter.items())) for field, counter in counts.items()}
    found = {"output": str(output), "examples": counts["split"].total(), **by_field}
    return {**found, "notices": list(dict.fromkeys(source.notices))}


def require_new(output: Path) -> None:
    """Raise an `OutputError` when there is something at `output` already."""
    if output.exists():
        raise OutputError(f"{output}: exists already. Remove it or give another --output.")
