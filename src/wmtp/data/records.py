"""Records of any table: JSON lines, JSON lists, CSV and Parquet files, and data sets of the hub.

Everything is read as a stream; memory holds one line, one record or one batch of rows.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import math
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, NamedTuple

from wmtp.data.json_list import Elements
from wmtp.errors import DataError, near_match
from wmtp.inputs import (
    MAX_LINE_BYTES,
    NAN_JSON,
    STRICT_JSON,
    json_object,
    json_reason,
    numbered_lines,
    reading,
)

Record = tuple[str, dict[str, Any]]
OnBad = Callable[[DataError], None]

_ROWS = 16


class _Policy(NamedTuple):
    """What to do with bad records."""

    skip: OnBad
    allow_nan: bool

    @property
    def json(self) -> json.JSONDecoder:
        return NAN_JSON if self.allow_nan else STRICT_JSON


def read_records(
    path: str | None,
    hub: str | None,
    split: str | None = None,
    config: str | None = None,
    *,
    how: str = "",
    on_bad: OnBad | None = None,
    allow_nan: bool = False,
) -> Iterator[Record]:
    """Yield where each record stands (`file.jsonl:12`), for messages, and the record.

    path: a file, a folder of files or a glob of files: .jsonl or .ndjson (an object per line), .json
    (a list of objects), .csv (a header, then texts), each also with .gz, and .parquet. Of a folder,
    files with other endings are not read, nor are folders in it. Files come by name.
    hub: id of a data set on the Hugging Face hub, streamed through `datasets`; `split` and `config`
    (its subset) belong to it, and without `split` all splits come one after the other.

    Exactly one of path and hub is given. Anything that is no record is a `DataError` that names the
    line or row: malformed or too long lines, bytes that are not UTF-8, keys given twice, NaN, rows
    of another length, a damaged file. how: how to get the data, said when they are not there.
    on_bad: is called with the error of a single bad record, which is then left out; what leaves the
    rest of the file unreadable is raised all the same. allow_nan: take NaN and infinities.
    """
    policy = _Policy(on_bad or _raise, allow_nan)
    if hub is not None:
        if path is not None:
            raise DataError(f"give path or hub, not both. {how}".rstrip())
        yield from _hub(hub, split, config, how, policy)
    elif path is not None:
        for file in data_files(path, how):
            yield from _READERS[str(_format(file))](file, policy)
    else:
        raise DataError(f"neither path nor hub is set. {how}".rstrip())


def data_files(path: str, how: str = "") -> list[Path]:
    """Return the files that `path`, a file, folder or glob, stands for, by name.

    None at all, or a file that is named with an unknown ending, is a `DataError`.
    """
    given = Path(path)
    try:
        if given.is_dir():
            entries = sorted(given.iterdir())
            found = [entry for entry in entries if _format(entry) and entry.is_file()]
        else:
            found = [given] if given.exists() else [Path(name) for name in sorted(glob.glob(path))]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {how}".rstrip()) from error
    except ValueError as error:  # a NUL in the name
        raise DataError(f"{path!r}: no name of a file ({error}).") from error
    if not found:
        what = "no data file in this folder" if given.is_dir() else "no such file"
        raise DataError(f"{path}: {what}. {how or 'Check the path.'} {_KNOWN}")
    for file in found:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise DataError(
                f"{file}: a pipe or device, no file. Write its content to a file first."
            )
        if not _format(file):
            raise DataError(
                f"{file}: unknown kind of file.{near_match(file.suffix, _READERS)} {_KNOWN}"
            )
    return found


def _format(file: Path) -> str | None:
    """Return the ending that says how `file` is read, or None."""
    name = file.name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    if ending not in _READERS or (ending == ".parquet" and name.endswith(".gz")):
        return None
    return ending


def _raise(error: DataError) -> None:
    raise error


def _json_lines(path: Path, policy: _Policy) -> Iterator[Record]:
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            record = json_object(line, where, policy.json)
        except DataError as error:
            policy.skip(error)
        else:
            yield where, record


def _json_list(path: Path, policy: _Policy) -> Iterator[Record]:
    """Yield the objects of a JSON list, with as much text in memory as one of them needs."""
    with reading(path), (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        elements = Elements(path, io.TextIOWrapper(file, encoding="utf-8-sig"), policy.json)
        for number, value in enumerate(elements, start=1):
            where = f"{path} record {number}"
            if isinstance(value, dict):
                yield where, value
            else:
                kind = type(value).__name__
                policy.skip(DataError(f"{where}: expected a JSON object, found {kind}."))


def _csv(path: Path, policy: _Policy) -> Iterator[Record]:
    """Yield the rows of a CSV file (RFC 4180), whose values are all texts."""
    csv.field_size_limit(MAX_LINE_BYTES)  # the default of 128 KiB is too small for programs
    rows = csv.reader(_csv_lines(path), strict=True)
    header: list[str] | None = None
    while True:
        where = f"{path}:{rows.line_num + 1}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(f"{where}: not valid CSV ({error}). Mend this row.") from error
        if row is None:
            return
        if not row:
            continue
        if header is None:
            header = row
            _require_unique(header, where)
        elif len(row) != len(header):
            policy.skip(
                DataError(
                    f"{where}: the row has {len(row)} fields, the header {len(header)}. "
                    "Put quotes around fields with commas."
                )
            )
        else:
            yield where, dict(zip(header, row, strict=True))


def _csv_lines(path: Path) -> Iterator[str]:
    for number, line in numbered_lines(path):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number}: {json_reason(error)}. Save the file as UTF-8."
            ) from error


def _parquet(path: Path, policy: _Policy) -> Iterator[Record]:
    try:
        import pyarrow as arrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet files need the package pyarrow: pip install 'wmtp[data]'."
        ) from error
    numbers = count(1)
    try:
        with ParquetFile(path, page_checksum_verification=True) as file:
            _require_unique(file.schema_arrow.names, str(path))
            for batch in file.iter_batches(batch_size=_ROWS):
                for record in batch.to_pylist():
                    yield from _checked(f"{path} row {next(numbers)}", record, policy)
    except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, not of Arrow
            with reading(path):
                raise
        raise DataError(
            f"{path} row {next(numbers)}: damaged, or not Parquet ({_first_line(error)}). "
            "Get another copy of the file."
        ) from error


def _hub(
    hub: str, split: str | None, config: str | None, how: str, policy: _Policy
) -> Iterator[Record]:
    try:
        import pyarrow as arrow
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
        from huggingface_hub.errors import HTTPError  # of whichever HTTP library it uses
    except ImportError as error:
        raise DataError(
            f"{hub}: data sets of the hub need the package datasets: pip install 'wmtp[data]'. {how}"
        ) from error
    try:
        found = load_dataset(hub, config, split=split, streaming=True)
        for name, records in found.items() if split is None else [(split, found)]:
            for number, record in enumerate(records, start=1):
                yield from _checked(f"{hub} split {name} row {number}", record, policy)
    except (DatasetsError, OSError, ValueError, HTTPError, arrow.ArrowException) as error:
        raise DataError(
            f"{hub}: cannot be loaded from the hub ({_first_line(error)}). {how or _HUB_HOW}"
        ) from error


def _checked(where: str, record: dict[str, Any], policy: _Policy) -> Iterator[Record]:
    """Yield the record unless there is NaN or infinity in it that is not allowed."""
    for name, value in record.items():
        if not (policy.allow_nan or _finite(value)):
            policy.skip(
                DataError(f"{where}: field {name!r} holds NaN or infinity. Write null or a number.")
            )
            return
    yield where, record


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, list) or all(map(_finite, value))


def field_of(record: dict[str, Any], name: str, kind: type, where: str, how: str = "") -> Any:
    """Return a field of a record; one of another type than str, int or list is a `DataError`."""
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = {str: "a string", int: "a whole number", list: "a list"}[kind]
        guess = "" if name in record else near_match(name, record)
        raise DataError(
            f"{where}: field {name!r} must be {expected}, found {shortened(value)}.{guess} {how}".rstrip()
        )
    return value


def _require_unique(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{where}: the column {name!r} is there twice. Rename one of the two.")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


_READERS: dict[str, Callable[[Path, _Policy], Iterator[Record]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".parquet": _parquet,
}
_HUB_HOW = (
    "Check the id, the network and HF_HUB_OFFLINE; private and gated data sets need `hf auth login`. "
    "Or download the files and set path."
)
_KNOWN = f"Files that can be read end in {', '.join(_READERS)}; all but the last also in .gz."
