"""Your own examples: a file of any kind that is read here, or a data set of the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from wmtp.config.section import Section
from wmtp.data.example import Example
from wmtp.data.records import read_records
from wmtp.data.sources.base import Skips, Source, unrepeated
from wmtp.data.sources.jsonl import FIELDS, checked_example, require_fields
from wmtp.data.splits import hashed_split
from wmtp.errors import DataError, near_match

REQUIRED = ("task_id", "prompt", "completion")
NUMBERS = ("reward", "difficulty", "time_limit_seconds")
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

    def all_examples(self) -> Iterator[Example]:
        """Yield the examples of all splits in the order of the records, which are read once.

        A bad record, or none at all, is a `DataError`. What was left out is in `notices` when reading
        ends.
        """
        config = self.config
        bad = Skips(config.on_bad_record, "bad records")
        repeated = Skips(config.duplicates, "repeated examples")
        found = False
        try:
            for example in self._different(bad, repeated):
                found = True
                yield example
        finally:  # also when no more examples are wanted
            self.notices += [*bad.notices(), *repeated.notices()]
        if not found:
            why = " ".join(self.notices) or "The file is empty."
            raise DataError(f"{self._origin}: no examples. {why} Write one record per example.")

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the examples of one split in the order of the records.

        Without a column for it, the split is `train` or `validation` by the hash of the task_id. A
        bad record, or a split without examples, is a `DataError`.
        """
        seen: set[str] = set()
        for example in self.all_examples():
            seen.add(example.split)
            if example.split == split:
                yield example
        if split not in seen:
            raise DataError(
                f"{self._origin}: no example in split {split!r}.{near_match(split, seen)} Splits that "
                f"are there: {', '.join(sorted(seen))}."
            )

    def _different(self, bad: Skips, repeated: Skips) -> Iterator[Example]:
        placed = self._placed(bad)
        if self.config.duplicates == "keep":
            return (example for _, example in placed)
        again = partial(self._placed, Skips("skip", "said already"))
        return unrepeated(placed, again, repeated, _task_id if self.config.unique_ids else repr)

    def _placed(self, bad: Skips) -> Iterator[tuple[str, Example]]:
        """Yield the examples, with where they stand."""
        config = self.config
        for where, record in read_records(
            config.path, config.hub, config.hub_split, config.hub_config, on_bad=bad.add
        ):
            try:
                example = _example(record, config)
            except DataError as error:
                bad.add(DataError(f"{where}: {error}"))
            else:
                yield where, example

    @property
    def _origin(self) -> str | None:
        return self.config.path or self.config.hub


def _task_id(example: Example) -> str:
    return example.task_id


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
    parsed = {field: _parsed(field, value) for field, value in fields.items()}
    return {field: v for field, v in parsed.items() if v is not None or field in REQUIRED}


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
    if not text and field not in (*REQUIRED, "code_prefix", "source"):
        return None
    if field == "reward" and text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if field in NUMBERS and _NUMBER.fullmatch(text):
        return float(text)
    return value
