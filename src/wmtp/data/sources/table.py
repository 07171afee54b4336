"""Your own examples: a file of any kind that is read here, or a data set of the hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from wmtp.config.recipe import Section
from wmtp.data.example import Example
from wmtp.data.records import read_records
from wmtp.data.sources.base import Skips, Source
from wmtp.data.sources.jsonl import FIELDS, checked_example, require_fields
from wmtp.data.splits import hashed_split
from wmtp.errors import DataError, near_match

REQUIRED = ("task_id", "prompt", "completion")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_TRUTH = {"true": 1.0, "false": 0.0}


class Table(Source):
    """Examples of your own: JSON lines, JSON, CSV or Parquet files, or a hub data set, by columns."""

    licence: ClassVar[str] = "yours"

    class Config(Section):
        """Settings of the source."""

        path: str | None = Field(
            None, description="File, folder or glob: .jsonl, .json, .csv (also .gz), .parquet."
        )
        hub: str | None = Field(None, description="Data set id on the Hugging Face hub.")
        hub_config: str | None = Field(None, description="Subset of the hub data set.")
        hub_split: str | None = Field(
            None, description="Split of the hub data set that is read; default: all of them."
        )
        columns: dict[str, str] | None = Field(
            None,
            description="Example field -> column; fields not named here have their own name. With "
            "it, other columns are ignored; without, they are errors.",
        )
        constants: dict[str, str | float | bool] = Field(
            {}, description="Example field -> the value it has in all examples, such as reward: 1."
        )
        validation_share: float = Field(
            0.05,
            ge=0,
            lt=1,
            description="Share of task_ids in the split `validation`, by hash; not used when there "
            "is a column for `split`.",
        )
        duplicates: Literal["error", "skip", "keep"] = Field(
            "error", description="What becomes of an example that equals an earlier one."
        )
        unique_ids: bool = Field(
            False, description="A task_id that comes again is a duplicate, whatever else differs."
        )
        on_bad_record: Literal["error", "skip"] = Field(
            "error", description="What becomes of a record that is no example; skips are counted."
        )

        @field_validator("columns", "constants")
        @classmethod
        def _fields_known(cls, given: dict[str, Any] | None) -> dict[str, Any] | None:
            for name in given or {}:
                if name not in FIELDS:
                    raise ValueError(
                        f"an example has no field {name!r}.{near_match(name, FIELDS)} "
                        f"Known: {', '.join(FIELDS)}"
                    )
            return given

        @model_validator(mode="after")
        def _one_origin(self) -> Table.Config:
            if (self.path is None) == (self.hub is None):
                raise ValueError("give exactly one of path and hub")
            if self.hub is None and (self.hub_config or self.hub_split):
                raise ValueError("hub_config and hub_split belong to hub, which is not given")
            if both := self.constants.keys() & (self.columns or {}).keys():
                raise ValueError(f"in columns and in constants: {', '.join(sorted(both))}")
            return self

    def splits(self) -> tuple[str, ...]:
        """Return the splits of the records, in order of appearance."""
        found = tuple(dict.fromkeys(example.split for example in self._all()))
        self.notices.clear()  # reading the examples says it all again
        return found

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the examples of one split in the order of the records.

        Without a column for it, the split is `train` or `validation` by the hash of the task_id. A
        bad record, or a split without examples, is a `DataError`.
        """
        seen: set[str] = set()
        found = False
        for example in self._all():
            seen.add(example.split)
            if example.split == split:
                found = True
                yield example
        origin = self.config.path or self.config.hub
        if not seen:
            why = " ".join(self.notices) or "The file is empty."
            raise DataError(f"{origin}: no examples. {why} Write one record per example.")
        if not found:
            raise DataError(
                f"{origin}: no example in split {split!r}.{near_match(split, seen)} Splits that are "
                f"there: {', '.join(sorted(seen))}."
            )

    def _all(self) -> Iterator[Example]:
        """Yield the examples of all splits, and say what was left out when reading ends."""
        config = self.config
        bad = Skips(config.on_bad_record, "bad records")
        repeated = Skips(config.duplicates, "repeated examples")
        first_at: dict[bytes, str] = {}
        try:
            for where, record in read_records(
                config.path, config.hub, config.hub_split, config.hub_config, on_bad=bad.add
            ):
                try:
                    example = _example(record, config)
                except DataError as error:
                    bad.add(DataError(f"{where}: {error}"))
                    continue
                if config.duplicates != "keep":
                    before = first_at.setdefault(_key(example, config.unique_ids), where)
                    if before != where:
                        repeated.add(
                            DataError(f"{where}: repeats {before}. Remove one of the two.")
                        )
                        continue
                yield example
        finally:  # also when no more examples are wanted
            self.notices += [*bad.notices(), *repeated.notices()]


def _key(example: Example, unique_ids: bool) -> bytes:
    """Return what two examples share that are duplicates; short, as there may be millions."""
    identity = example.task_id if unique_ids else repr(example)
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).digest()[:16]


def _example(record: dict[str, Any], config: Table.Config) -> Example:
    fields = _select(record, config)
    if "split" not in fields:
        fields["split"] = hashed_split(str(fields["task_id"]), validation=config.validation_share)
    return checked_example(fields)


def _select(record: dict[str, Any], config: Table.Config) -> dict[str, Any]:
    """Return the fields of an example from the columns of a record."""
    columns = config.columns or {}
    if config.columns is None:
        require_fields(record)
    fields = dict(config.constants)
    for field in FIELDS:
        column = columns.get(field, field)
        if field in config.constants:
            continue
        if column not in record:
            if field in REQUIRED or column != field:
                raise DataError(
                    f"no column {column!r} for the field {field!r}.{near_match(column, record)} "
                    f"Columns: {', '.join(record) or 'none'}. Map it with data.columns."
                )
        elif record[column] is not None or field in REQUIRED:
            fields[field] = record[column]
    return {field: _parsed(field, value) for field, value in fields.items()}


def _parsed(field: str, value: Any) -> Any:
    """Return a value as JSON would have it: CSV has texts only, and some files number their tasks.

    Only what has one meaning is taken; the rest stays, for the check of types to name.
    """
    if field == "task_id" and type(value) is int:
        return str(value)
    if field == "reward" and isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if field in ("reward", "difficulty", "tests") and not text:
        return None
    if field == "reward" and text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if field in ("reward", "difficulty") and _NUMBER.fullmatch(text):
        return float(text)
    return value
