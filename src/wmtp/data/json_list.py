"""Lists in JSON files, read element by element."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from wmtp.errors import DataError
from wmtp.inputs import MAX_LINE_BYTES, json_reason

_CHUNK = 1 << 16


class Elements:
    """The elements of the JSON list in `file`, decoded one by one.

    Memory holds as much text as one element needs. What is no list, or an element that is no JSON or
    longer than MAX_LINE_BYTES characters, is a `DataError` that names `path` and the element.
    """

    def __init__(self, path: Path, file: IO[str], decoder: json.JSONDecoder) -> None:
        self._path = path
        self._decoder = decoder
        self._file = file
        self._text = ""
        self._number = 0

    def __iter__(self) -> Iterator[Any]:
        if self._next() != "[":
            raise self._error("expected a list of objects. One object per line is .jsonl")
        self._text = self._text[1:]
        separator = self._next()
        while separator != "]":
            self._number += 1
            yield self._value()
            separator = self._next()
            if separator not in (",", "]"):
                raise self._error("expected a comma or the end of the list")
            if separator == ",":
                self._text = self._text[1:]
                if self._next() == "]":
                    raise self._error("a comma before the end of the list")
        self._text = self._text[1:]
        if self._next():
            raise self._error("more text after the list")

    def _next(self) -> str:
        """Return the next character that is no white space, which stays; "" at the end."""
        while True:
            self._text = self._text.lstrip(" \t\r\n")
            if self._text or not self._more():
                return self._text[:1]

    def _value(self) -> Any:
        """Return the next element; the text read ahead doubles until it holds the whole of it."""
        self._next()
        while True:
            try:
                value, stop = self._decoder.raw_decode(self._text)
            except json.JSONDecodeError as error:
                if not self._more():
                    raise self._error(error.msg) from error
                continue
            except (ValueError, RecursionError) as error:
                raise self._error(json_reason(error)) from error
            if stop == len(self._text) and self._more():  # a number may go on
                continue
            if stop > MAX_LINE_BYTES:
                raise self._too_long()
            self._text = self._text[stop:]
            return value

    def _more(self) -> bool:
        """Read on; return whether there was more."""
        if len(self._text) > MAX_LINE_BYTES:
            raise self._too_long()
        try:
            read = self._file.read(max(_CHUNK, len(self._text)))
        except UnicodeDecodeError as error:
            raise self._error(f"not UTF-8: {error.reason}") from error
        self._text += read
        return bool(read)

    def _too_long(self) -> DataError:
        return self._error(f"longer than {MAX_LINE_BYTES >> 20} MiB, or never closed")

    def _error(self, reason: str) -> DataError:
        where = f"{self._path} record {self._number}" if self._number else str(self._path)
        return DataError(f"{where}: not a valid JSON list ({reason}). Mend the file.")
