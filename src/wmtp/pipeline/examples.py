"""Examples that a command names: those of a file, or of a registered source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field

from wmtp.config.load import Document
from wmtp.config.section import OpenSection
from wmtp.data.example import Example
from wmtp.data.example_files import read_file, require_ending, write_file
from wmtp.data.sources.base import Source
from wmtp.errors import ConfigError, DataError, OutputError, near_match
from wmtp.outputs import locked, remove_partial, writing
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
    return source.all_examples() if split == ALL else source.examples(split)


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
    if not seen:
        raise DataError(f"{file}: no examples. The file is empty. Write one record per example.")
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
    source's `notices`. A source without a single example is a `DataError`, and then no file is
    written.
    """
    require_ending(output)
    counts: dict[str, Counter[str]] = {n: Counter() for n in ("split", "reward", "difficulty")}
    empty: list[str] = []

    def counted() -> Iterator[Example]:
        for example in islice(source_examples(source, split), limit):
            for field, counter in counts.items():
                value = getattr(example, field)
                counter["unknown" if value is None else str(value)] += 1
            if not example.completion:
                empty.append(example.task_id)
            yield example
        if not counts["split"]:
            raise DataError(f"split {split!r} has no example. Check the source and the split.")

    with new_file(output):
        write_file(output, counted())
    by_field = {field: dict(sorted(counter.items())) for field, counter in counts.items()}
    found = {"output": str(output), "examples": counts["split"].total(), **by_field}
    notices = [*source.notices]
    if empty:
        notices.append(f"{len(empty)} completions are empty; the first is that of {empty[0]}")
    return {**found, "notices": list(dict.fromkeys(notices))}


@contextmanager
def new_file(output: Path) -> Iterator[Path]:
    """Yield the folder `OUTPUT.partial`, which keeps other processes from writing the file meanwhile.

    What a killed process left of the file is removed. What is at `output` already, and a process that
    is writing it, is an `OutputError`.
    """
    state = output.with_name(f"{output.name}.partial")
    _require_new(output)
    with locked(state):
        _require_new(output)  # whoever had the lock before may have written it
        remove_partial(output)
        yield state


def _require_new(output: Path) -> None:
    with writing(output):
        there = output.exists() or output.is_symlink()
    if there:
        raise OutputError(f"{output}: exists already. Remove it or give another --output.")
