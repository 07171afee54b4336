"""Records of data files, one after another."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wmtp.errors import DataError, near_match


def read_records(
    path: str | None,
    hub: str | None,
    split: str | None = None,
    config: str | None = None,
    *,
    how: str = "",
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each record stands, for messages, and the record, one at a time."""
    if path is None:
        if hub is None:
            raise DataError(f"neither path nor hub is set. {how}")
        raise DataError(f"{hub}, {config}, {split}: the hub cannot be read. {how}")
    if path.endswith(".parquet"):
        import pyarrow.parquet

        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1):
            for record in batch.to_pylist():
                number += 1
                yield f"{path} record {number}", record
        return
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(Path(path), "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield f"{path}:{number}", json.loads(line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


def field_of(record: dict[str, Any], name: str, kind: type, where: str, how: str = "") -> Any:
    """Return a field of a record; one of another type than str, int or list is a `DataError`."""
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = {str: "a string", int: "a whole number", list: "a list"}[kind]
        guess = "" if name in record else near_match(name, record)
        raise DataError(
            f"{where}: field {name!r} must be {expected}, found {value!r:.200}.{guess} {how}".rstrip()
        )
    return value
