"""Files of examples, one JSON object per line, as `write_examples` writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from wmtp.data.example import Example, require_text
from wmtp.errors import DataError, near_match
from wmtp.outputs import atomic_write, numbered_jsonl

FIELDS = tuple(field.name for field in fields(Example))
# An example as a pydantic model, which checks types and says what is wrong.
_FIELD_DEFINITIONS: dict[str, Any] = {
    field.name: (hint, ... if field.default is MISSING else field.default)
    for field, hint in zip(fields(Example), get_type_hints(Example).values(), strict=True)
}
_Record = create_model(
    "_Record", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **_FIELD_DEFINITIONS
)


def read_examples(path: str | Path) -> list[Example]:
    """Return what `write_examples` wrote.

    A line that is not an example, or that repeats another, is a `DataError` naming `path:line`.
    """
    first_at: dict[Example, int] = {}
    for number, record in numbered_jsonl(path):
        where = f"{path}:{number}"
        try:
            require_fields(record)
            example = checked_example(record)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if example in first_at:
            raise DataError(f"{where}: repeats line {first_at[example]}. Remove one of the two.")
        first_at[example] = number
    return list(first_at)


def write_examples(path: str | Path, examples: Iterable[Example]) -> None:
    """Write one JSON object per line to `path`, whole or not at all; ASCII keeps any text."""
    with atomic_write(path) as file:
        for example in examples:
            file.write(json.dumps(example.to_json(), allow_nan=False) + "\n")


def require_fields(record: dict[str, Any]) -> None:
    """Raise a `DataError` for a key that is no field of an example."""
    for name in record:
        if name not in FIELDS:
            raise DataError(
                f"unknown column {name!r}.{near_match(name, FIELDS)} Rename it, or set "
                "data.columns, with which other columns are ignored."
            )


def checked_example(record: dict[str, Any]) -> Example:
    """Return the example whose fields are in `record`, a JSON object; a wrong type is a `DataError`."""
    try:
        text = json.dumps(record, ensure_ascii=False)
    except TypeError as error:  # bytes, dates and the like, from Parquet
        raise DataError(f"{error}. Convert the column to text, numbers or lists.") from error
    require_text(text)
    try:
        checked = _Record.model_validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"field {field!r}: {first['msg']}, found {first['input']!r}.") from error
    return Example(**vars(checked))
