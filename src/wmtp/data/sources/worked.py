"""What sources of worked solutions share: files by split, and a validation part of the training set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import Field

from wmtp.config.section import Section
from wmtp.data.records import data_files, read_records
from wmtp.data.sources.base import require_new
from wmtp.data.splits import hashed_split, require_split
from wmtp.errors import DataError

SPLITS = ("train", "validation", "test")


class WorkedSection(Section):
    """Where the problems are read from."""

    path: str | None = Field(
        None,
        description="Folder with train.jsonl and test.jsonl (or other files that can be read whose "
        "names begin so), or one of them.",
    )
    hub: bool = Field(False, description="Load the data set from the hub through `datasets`.")
    validation_share: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Share of the authors' training problems in the split `validation`, by hash.",
    )


class Found(NamedTuple):
    """A record of a split: where it stands, for messages, its task_id and its fields."""

    where: str
    task_id: str
    record: dict[str, Any]


def split_records(
    source: str, config: WorkedSection, split: str, hub_id: str, subset: str | None, how: str
) -> Iterator[Found]:
    """Yield the records of one split.

    The task_id is the source and the record's unique_id, else the authors' split and the place in
    it. A split without records is a `DataError`.
    """
    require_split(source, split, SPLITS)
    published = "test" if split == "test" else "train"
    named = re.compile(rf"{published}[-.]")  # not train_socratic.jsonl
    if config.path is not None and not config.hub:
        there = data_files(config.path, how)
        files = [file for file in there if named.match(file.name)]
        if not files:
            names = ", ".join(file.name for file in there[:5])
            raise DataError(
                f"{config.path}: no file {published}.jsonl, nor another that begins so, for split "
                f"{split!r}; there is {names}. Choose a split whose file is there. {how}"
            )
        streams = [read_records(str(file), None, how=how) for file in files]
    else:
        hub = hub_id if config.hub else None
        streams = [read_records(config.path, hub, published, subset, how=how)]
    number = 0
    seen: set[str] = set()
    yielded = False
    for stream in streams:
        for where, record in stream:
            name = record.get("unique_id")
            task_id = f"{source}/{name if isinstance(name, str) else f'{published}/{number}'}"
            number += 1
            require_new(task_id, seen, where)
            if split == "test" or split == hashed_split(
                task_id, validation=config.validation_share
            ):
                yielded = True
                yield Found(where, task_id, record)
    if not yielded:
        raise DataError(f"{config.path or hub_id}: no problem in split {split!r}. {how}")
