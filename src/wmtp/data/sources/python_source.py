"""Python files of a folder as training text; by default the interpreter's standard library."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from wmtp.config.section import Section
from wmtp.data.example import Example
from wmtp.data.sources.base import Source
from wmtp.data.sources.fields import with_lf
from wmtp.data.splits import hashed_split, require_split
from wmtp.data.syntax import ParsedCode
from wmtp.errors import DataError

SPLITS = ("train", "validation", "test")
# Tests repeat themselves; installed packages are not the folder's own code.
EXCLUDED = frozenset({"test", "tests", "idlelib", "site-packages", "dist-packages", "__pycache__"})


class PythonSource(Source):
    """Chunks of Python files, without reward. A file's split is set by the hash of its path."""

    licence: ClassVar[str] = "yours; the standard library: PSF"

    class Config(Section):
        """Settings of the source."""

        path: str | None = Field(
            None, description="Folder that is searched for .py files; null: the standard library."
        )
        window_chars: int = Field(
            2000, ge=100, description="Longest chunk; it ends between top-level statements."
        )
        validation_share: float = Field(0.05, ge=0, lt=0.5, description="Share of the files.")
        test_share: float = Field(0.05, ge=0, lt=0.5, description="Share of the files.")

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the chunks of one split's files, by path and place.

        The chunks of a file, put together, are its text with LF line ends. Files that are not
        valid UTF-8 or not valid Python are left out and counted.
        """
        require_split("python-source", split, SPLITS)
        root = Path(self.config.path or sysconfig.get_path("stdlib"))
        shares = {"test": self.config.test_share, "validation": self.config.validation_share}
        names = [n for n in python_files(root) if hashed_split(n, **shares) == split]
        skipped: list[str] = []
        for name in names:
            try:
                texts = chunks(_read(root / name), self.config.window_chars)
            except (UnicodeDecodeError, SyntaxError):
                skipped.append(name)
                continue
            for number, text in enumerate(texts):
                yield Example(f"{name}#{number}", "", text, source="python-source", split=split)
        if skipped:
            self.notices.append(
                f"python-source, split {split}: left out {len(skipped)} of {len(names)} files of "
                f"{root}, not valid UTF-8 or not valid Python; the first: {skipped[0]!r}"
            )
        if len(skipped) == len(names):
            raise DataError(
                f"{root}: no usable Python file in split {split!r} ({len(skipped)} left out). "
                "Give a folder with more files or change the shares of the splits."
            )


def python_files(root: Path) -> list[str]:
    """Return the .py files below `root`, relative and sorted; without tests, installed packages,
    caches and hidden folders."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Give data.path a folder with Python files.")
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in EXCLUDED and not name.startswith(".")]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    if not found:
        raise DataError(f"{root}: no .py file in or below this folder. Check data.path.")
    return sorted(path.relative_to(root).as_posix() for path in found if path.is_file())


def chunks(text: str, limit: int) -> list[str]:
    """Return `text` cut into pieces of at most `limit` characters, which together are the text.

    Cuts are between top-level statements where that is possible, else between lines, else anywhere.
    Text that is not valid Python is a `SyntaxError`.
    """
    packed: list[str] = []
    for piece in _pieces(text, limit):
        if packed and len(packed[-1]) + len(piece) <= limit:
            packed[-1] += piece
        else:
            packed.append(piece)
    return packed


def _pieces(text: str, limit: int) -> Iterator[str]:
    """Yield the parts of `text` that are kept whole, none of them longer than `limit`."""
    for statement in _cut(text, _statement_starts(text)):
        if len(statement) <= limit:
            yield statement
            continue
        for line in statement.splitlines(keepends=True):
            yield from _cut(line, range(limit, len(line), limit))


def _cut(text: str, places: Iterable[int]) -> list[str]:
    """Return the parts of `text` between increasing places, without empty ones."""
    return [text[start:stop] for start, stop in pairwise([0, *places, len(text)]) if start < stop]


def _statement_starts(text: str) -> list[int]:
    """Return where top-level statements start, with their decorators and the comments above."""
    code = ParsedCode(text)
    lines = text.split("\n")
    starts = set()
    for statement in code.tree.body:
        decorators = getattr(statement, "decorator_list", [])
        number = min(node.lineno for node in [statement, *decorators])
        while number > 1 and lines[number - 2].startswith("#"):
            number -= 1
        starts.add(code.line_start(number))
    return sorted(starts)


def _read(path: Path) -> str:
    """Return the text of `path` without a byte order mark and with LF line ends."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return with_lf(text)
