"""A large array on disk that says what it belongs to: built in parts, checked, then memory-mapped."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, safe_open

from wmtp.errors import DataError
from wmtp.outputs import LOCK_FILE, atomic_write, writing

# Raised when the values or the layout of the file change their meaning.
FORMAT = "1"
# Values of one part: what a killed process loses at most.
PART_VALUES = 1 << 18


class UnusableCache(DataError):
    """A cache file is damaged or belongs to something else; the message says which."""


@dataclass(frozen=True)
class Kind:
    """What the values are: the name of files and tensor, and their number format."""

    name: str
    dtype: Literal["<f2", "<f4"]

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return np.dtype(self.dtype).itemsize


REFERENCE_CE = Kind("ref_ce", "<f2")


class CachedValues:
    """An array in `folder` under a key of the `facts` that decide its values.

    `file` is the whole: a safetensors file whose metadata hold the facts and a checksum. Until it is
    there, its parts lie in the folder `parts`. Files appear whole or not at all.
    """

    def __init__(self, folder: Path, facts: Mapping[str, str], kind: Kind = REFERENCE_CE) -> None:
        self._facts = {"format": FORMAT, **facts}
        self._kind = kind
        self._key = hashlib.sha256(json.dumps(self._facts, sort_keys=True).encode()).hexdigest()[
            :32
        ]
        self._folder = folder
        self.file = folder / f"{kind.name}-{self._key}.safetensors"
        self.parts = folder / f"{kind.name}-{self._key}.parts"

    def get(
        self,
        ends: np.ndarray,
        compute: Callable[[int, int], np.ndarray],
        say: Callable[[str], None] = lambda text: None,
    ) -> np.ndarray:
        """Return all values, mapped into memory and not loaded.

        ends [N]: where the values of each sample end. compute: gives the values of samples first..last,
        and is asked for parts of about `PART_VALUES` that no process has computed or is computing. `say`
        is told when a file is damaged or belongs to something else, and is therefore built again.
        """
        size = int(ends[-1])
        values = self._usable(size, say)
        if values is not None:
            return values
        cuts = np.searchsorted(ends, np.arange(0, size, PART_VALUES), side="left")
        bounds = np.unique([*cuts, len(ends)])
        sizes = np.diff(np.concatenate([[0], ends])[bounds])
        with self._held(len(sizes), wait=True):
            if self._usable(size, lambda text: None) is None:
                _remove(self.file)
        while True:
            self._compute_parts(compute, bounds)
            with self._held(len(sizes), wait=True):
                if not self.file.exists():
                    self._merge(sizes, say)
                if self.file.exists():
                    return _read(self.file, size, self._facts, self._kind)

    def _usable(self, size: int, say: Callable[[str], None]) -> np.ndarray | None:
        """Return the whole; None when it is not there or cannot be used."""
        if not self.file.exists():
            return None
        try:
            return _read(self.file, size, self._facts, self._kind)
        except UnusableCache as reason:
            say(f"{reason} It is built anew.")
            return None

    def _compute_parts(self, compute: Callable[[int, int], np.ndarray], bounds: np.ndarray) -> None:
        """Compute the parts that are neither there nor another process's, then wait for the others'."""
        for wait in (False, True):
            for number, (first, last) in enumerate(pairwise(bounds)):
                with self._held(number, wait=wait) as free:
                    file, facts = self._part(number)
                    # The whole appears before its parts go, so the part is looked for first.
                    if free and not file.exists() and not self.file.exists():
                        _write(file, [compute(int(first), int(last))], facts, self._kind)

    def _merge(self, sizes: np.ndarray, say: Callable[[str], None]) -> None:
        """Make the whole of its parts; if some cannot be used, remove these instead."""
        parts = []
        for number, size in enumerate(sizes):
            file, facts = self._part(number)
            try:
                parts.append(_read(file, int(size), facts, self._kind))
            except UnusableCache as reason:
                say(f"{reason} It is built anew.")
                _remove(file)
        if len(parts) == len(sizes):
            for left in self._folder.glob(f".{self.file.name}.*.partial"):  # of one killed here
                _remove(left)
            _write(self.file, parts, self._facts, self._kind)
            shutil.rmtree(self.parts, ignore_errors=True)  # what is left does no harm

    def _part(self, number: int) -> tuple[Path, dict[str, str]]:
        """Return the file of a part and its facts."""
        return self.parts / f"{number:06d}.safetensors", {**self._facts, "part": str(number)}

    @contextmanager
    def _held(self, number: int, *, wait: bool) -> Iterator[bool]:
        """Keep other processes out of piece `number` of this key; yields whether it was free.

        With `wait` it is free in the end. The lock is one byte of the folder's lock file and ends with
        its process, however that ends. File systems without locks are used without.
        """
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._folder / LOCK_FILE).open("a")
        with file:
            mode = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
            free = True
            try:
                fcntl.lockf(file, mode, 1, (int(self._key[:8], 16) << 24) + number)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    free = False
                elif error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
                    raise
            yield free


def _remove(file: Path) -> None:
    """Remove a file that cannot be used; one that cannot be removed is an `OutputError`."""
    with writing(file):
        file.unlink(missing_ok=True)


def _write(file: Path, chunks: Sequence[np.ndarray], facts: Mapping[str, str], kind: Kind) -> None:
    """Write chunks one after another as one tensor, never all of them in memory."""
    chunks = [np.ascontiguousarray(chunk, dtype=kind.dtype) for chunk in chunks]
    checksum = hashlib.sha256()
    for chunk in chunks:
        checksum.update(chunk.data)
    size = sum(len(chunk) for chunk in chunks)
    tensor = {
        "dtype": f"F{8 * kind.itemsize}",
        "shape": [size],
        "data_offsets": [0, kind.itemsize * size],
    }
    metadata = {**facts, "sha256": checksum.hexdigest()}
    header = json.dumps({"__metadata__": metadata, kind.name: tensor}).encode()
    header += b" " * (-len(header) % 8)
    with atomic_write(file, "wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for chunk in chunks:
            stream.write(chunk.data)


def _read(file: Path, size: int, facts: Mapping[str, str], kind: Kind) -> np.ndarray:
    """Return the values of a file, mapped; `UnusableCache` unless it is whole and has these facts."""
    try:
        with safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            names = list(opened.keys())
            tensor = opened.get_slice(kind.name) if names == [kind.name] else None
            layout = tensor and (tensor.get_dtype(), tensor.get_shape())
    except (SafetensorError, OSError) as error:
        raise UnusableCache(f"{file}: is truncated or damaged ({error}).") from error
    other = [name for name, value in facts.items() if metadata.get(name) != value]
    if other:
        raise UnusableCache(f"{file}: belongs to another {' and '.join(other)}.")
    with file.open("rb") as stream:
        offset = 8 + int.from_bytes(stream.read(8), "little")
        stream.seek(offset)
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    bits = 8 * kind.itemsize
    if layout != (f"F{bits}", [size]):
        raise UnusableCache(f"{file}: does not hold {size} numbers in float{bits}.")
    if checksum != metadata.get("sha256"):
        raise UnusableCache(f"{file}: is damaged: its values are not those of its checksum.")
    # Copy-on-write, for torch takes writable arrays alone; a plain view is cheaper to slice.
    return np.asarray(np.memmap(file, kind.dtype, "c", offset, (size,)))
