"""Files of examples, one JSON object per line, as `write_examples` writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from wmtp.data.example import Example, require_text
from wmtp.data.records import read_records
from wmtp.data.sources.base import Skips, unrepeated
from wmtp.errors import DataError, near_match
from wmtp.outputs import atomic_write

_TOO_DEEP = "nested too deeply. Lists in an example have at most two levels."
FIELDS = tuple(field.name for field in fields(Example))
# An example as a pydantic model, which checks types and says what is wrong.
_FIELD_DEFINITIONS: dict[str, Any] = {
    field.name: (hint, ... if field.default is MISSING else field.default)
    for field, hint in zip(fields(Example), get_type_hints(Example).values(), strict=True)
}
_Record = create_model(
    "_Record", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **_FIELD_DEFINITIONS
)


def read_examples(path: str | Path) -> Iterator[Example]:
    """Yield what `write_examples` wrote, or the same in another kind of file that can be read.

    A line that is not an example, or that repeats another, is a `DataError` naming `path:line`.
    """
    return unrepeated(_placed(path), lambda: _placed(path), Skips("error", "repeated examples"))


def _placed(path: str | Path) -> Iterator[tuple[str, Example]]:
    for where, record in read_records(str(path), None):
        try:
            require_fields(record)
            yield where, checked_example(record)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error


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
    except RecursionError as error:
        raise DataError(_TOO_DEEP) from error
    require_text(text)
    try:
        checked = _Record.model_validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        if not field:  # pydantic allows fewer levels than the parser that made the record
            raise DataError(_TOO_DEEP) from error
        raise DataError(
            f"field {field!r}: {first['msg']}, found {shortened(first['input'])}."
        ) from error
    return Example(**vars(checked))
