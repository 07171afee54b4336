"""Examples in files of our own format: JSON lines or Parquet, by the file's ending."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

from wmtp.data.example import Example, require_text
from wmtp.data.sources.jsonl import read_examples, write_examples
from wmtp.errors import DataError
from wmtp.outputs import atomic_write

ENDINGS = (".jsonl", ".parquet")
ROW_GROUP = 1000


def require_ending(path: Path) -> None:
    """Raise a `DataError` unless the name of `path` says which format it is in."""
    if path.suffix not in ENDINGS:
        raise DataError(
            f"{path}: the ending says the format of examples. Name it {' or '.join(ENDINGS)}."
        )


def read_file(path: Path) -> Iterator[Example]:
    """Yield the examples of a file that `write_file` wrote, in order; none of them is kept.

    A missing file, another format, a bad record or a repeated one is a `DataError` that says where.
    """
    require_ending(path)
    return read_examples(path)


def write_file(path: Path, examples: Iterable[Example]) -> None:
    """Write examples to `path`, whole or not at all, holding `ROW_GROUP` of them at a time."""
    require_ending(path)
    if path.suffix == ".jsonl":
        write_examples(path, examples)
    else:
        _write_parquet(path, examples)


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "Parquet files need the package pyarrow: pip install 'wmtp[data]'. Or use .jsonl."
        ) from error
    return pyarrow


def parquet_schema() -> Any:
    """Return the Arrow schema of the Parquet files: the fields of `Example`, in order."""
    pa = _pyarrow()
    kinds = {
        "float | None": pa.float64(),
        "tuple[tuple[int, int], ...]": pa.list_(pa.list_(pa.int64())),
        "tuple[tuple[str, str], ...]": pa.list_(pa.list_(pa.string())),
    }
    return pa.schema(
        [pa.field(field.name, kinds.get(str(field.type), pa.string())) for field in fields(Example)]
    )


def _write_parquet(path: Path, examples: Iterable[Example]) -> None:
    pa = _pyarrow()
    schema = parquet_schema()
    rest = iter(examples)
    with (
        atomic_write(path, "wb") as file,
        pa.parquet.ParquetWriter(
            file, schema, compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        while group := list(islice(rest, ROW_GROUP)):
            records = [example.to_json() for example in group]
            for record in records:
                text = json.dumps(record, ensure_ascii=False)
                require_text(text, f"{path}: {record['task_id']}: Parquet holds UTF-8, and ")
            writer.write_table(pa.Table.from_pylist(records, schema=schema))
