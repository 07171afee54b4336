"""Examples in JSON-lines files, one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model

from wmtp.config.recipe import Section
from wmtp.data.example import Example, require_text
from wmtp.data.sources.base import Source
from wmtp.data.splits import hashed_split
from wmtp.errors import DataError, near_match
from wmtp.outputs import atomic_write, numbered_jsonl

FIELDS = tuple(field.name for field in fields(Example))
REQUIRED = ("task_id", "prompt", "completion")
# An example as a pydantic model, which checks types and says what is wrong.
_FIELD_DEFINITIONS: dict[str, Any] = {
    field.name: (hint, ... if field.default is MISSING else field.default)
    for field, hint in zip(fields(Example), get_type_hints(Example).values(), strict=True)
}
_Record = create_model(
    "_Record", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **_FIELD_DEFINITIONS
)


class Jsonl(Source):
    """Examples of a file of one's own, whose columns are those of `Example` or mapped to them."""

    class Config(Section):
        """Settings of the source."""

        path: str = Field(description="File with one JSON object per line.")
        columns: dict[str, str] | None = Field(
            None,
            description="Example field -> column of the file; fields not named here have their own "
            "name. With it, other columns of the file are ignored; without, they are errors.",
        )
        validation_share: float = Field(
            0.05,
            ge=0,
            lt=1,
            description="Share of task_ids in the split `validation`, by hash; not used when the "
            "file has a column for `split`.",
        )

    def splits(self) -> tuple[str, ...]:
        """Return the splits of the file, in order of appearance."""
        config = self.config
        records = _numbered(Path(config.path), config.columns, config.validation_share)
        return tuple(dict.fromkeys(example.split for _, example in records))

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the examples of one split in the order of the file.

        Without a column for it, the split is `train` or `validation` by the hash of the task_id. A
        bad line, or a split without examples, is a `DataError`.
        """
        path = Path(self.config.path)
        seen = set()
        found = False
        for _, example in _numbered(path, self.config.columns, self.config.validation_share):
            seen.add(example.split)
            if example.split == split:
                found = True
                yield example
        if not found:
            if not seen:
                raise DataError(f"{path}: the file is empty. Write one JSON object per line.")
            known = ", ".join(sorted(seen))
            raise DataError(
                f"{path}: no example in split {split!r}.{near_match(split, seen)} Splits in this "
                f"file: {known}."
            )


def read_examples(path: str | Path) -> list[Example]:
    """Return what `write_examples` wrote; a line that is not an example is a `DataError`."""
    return [example for _, example in _numbered(Path(path), None, None)]


def write_examples(path: str | Path, examples: Iterable[Example]) -> None:
    """Write one JSON object per line to `path`, whole or not at all; ASCII keeps any text."""
    with atomic_write(path) as file:
        for example in examples:
            file.write(json.dumps(example.to_json(), allow_nan=False) + "\n")


def _numbered(
    path: Path, columns: dict[str, str] | None, validation_share: float | None
) -> Iterator[tuple[int, Example]]:
    """Yield line number and example; a split that is not given comes from hash and share."""
    for field in columns or {}:
        if field not in FIELDS:
            raise DataError(
                f"data.columns: an example has no field {field!r}.{near_match(field, FIELDS)} "
                f"Known: {', '.join(FIELDS)}."
            )
    first_at: dict[Example, int] = {}
    for number, record in numbered_jsonl(path):
        try:
            example = _example(_select(record, columns), validation_share)
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from error
        if example in first_at:
            raise DataError(
                f"{path}:{number}: repeats line {first_at[example]}. Remove one of the two lines."
            )
        first_at[example] = number
        yield number, example


def _select(record: dict[str, Any], columns: dict[str, str] | None) -> dict[str, Any]:
    """Return the fields of an example from the columns of a line."""
    if columns is None:
        for column in record:
            if column not in FIELDS:
                raise DataError(
                    f"unknown column {column!r}.{near_match(column, FIELDS)} Rename it, or set "
                    "data.columns, with which other columns are ignored."
                )
    chosen = {field: (columns or {}).get(field, field) for field in FIELDS}
    for field, column in chosen.items():
        if column not in record and (field in REQUIRED or column != field):
            raise DataError(
                f"no column {column!r} for the field {field!r}.{near_match(column, record)} "
                f"Columns: {', '.join(record) or 'none'}. Map it with data.columns."
            )
    return {field: record[column] for field, column in chosen.items() if column in record}


def _example(record: dict[str, Any], validation_share: float | None) -> Example:
    if "split" not in record and validation_share is not None:
        record["split"] = hashed_split(str(record["task_id"]), validation=validation_share)
    require_text(json.dumps(record, ensure_ascii=False))
    try:
        checked = _Record.model_validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"field {field!r}: {first['msg']}, found {first['input']!r}.") from error
    return Example(**vars(checked))
