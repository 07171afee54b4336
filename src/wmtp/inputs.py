"""Reading JSON and lines of it: what is wrong is said with its place, and nothing can fill the memory."""

from __future__ import annotations

import codecs
import gzip
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from wmtp.errors import DataError

MAX_LINE_BYTES = 64 << 20  # longer lines are no records, and reading them could fill the memory


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file `path`; anything else there is a `DataError`."""
    fix = "Restore this file, or delete it to have it written again."
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({json_reason(error)}). {fix}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(value).__name__}. {fix}")
    return value


def json_reason(error: ValueError | RecursionError) -> str:
    """Return what is wrong with JSON text, in words, from what its decoder raised."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} at byte {error.start + 1}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return `pairs` as a dictionary; a key given twice is a `ValueError`."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} is given twice")
    return found


def _finite(text: str) -> float:
    """Return the number that `text` writes; NaN and what is too large for a float are a `ValueError`."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


# What the standard leaves open is refused: a key given twice, and with the first of the two also NaN
# and infinity, be it by overflow.
STRICT_JSON = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite
)
NAN_JSON = json.JSONDecoder(object_pairs_hook=_unique)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn a failure to read `path`, or a broken gzip stream in it, into a `DataError`."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: damaged or cut short ({error}). Get another copy of the file."
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot be read ({reason}). Check the path.") from error


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield number (from 1) and bytes of each line; a name that ends in .gz is decompressed.

    A file that cannot be read, or a line above MAX_LINE_BYTES, is a `DataError`.
    """
    path = Path(path)
    with reading(path), (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        for number in count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise DataError(
                    f"{path}:{number}: the line is longer than {MAX_LINE_BYTES >> 20} MiB. "
                    "Put each record on a line of its own."
                )
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def json_object(line: bytes, where: str, decoder: json.JSONDecoder | None = None) -> dict[str, Any]:
    """Return the JSON object in `line`; anything else there is a `DataError` that begins with `where`.

    decoder: default STRICT_JSON.
    """
    try:
        record = (decoder or STRICT_JSON).decode(line.decode())
    except json.JSONDecodeError as error:  # whose own line and column are those within this line
        raise DataError(
            f"{where}: not valid JSON ({error.msg} at character {error.pos + 1}). Mend or remove "
            "this line."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: not valid JSON ({json_reason(error)}). Mend or remove this line."
        ) from error
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: expected a JSON object, found {type(record).__name__}. "
            'Write one {"field": value, ...} per line.'
        )
    return record


def numbered_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number (from 1) and object of each line that is not blank.

    A missing file or a line that is not a JSON object is a `DataError` that names `path:line`.
    """
    for number, line in numbered_lines(path):
        if line.strip():
            yield number, json_object(line, f"{path}:{number}")


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; errors are those of `numbered_jsonl`."""
    return [record for _, record in numbered_jsonl(path)]
