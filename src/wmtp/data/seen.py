"""Which problems a model was trained on, kept as hashes beside it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np

from wmtp.data.example import Example
from wmtp.errors import CheckpointError
from wmtp.outputs import atomic_write


class SeenProblems:
    """A set of problems, known by their task id and by their text.

    The text of a problem is its prompt without regard to white space; without a prompt, its completion.
    Memory and disk: at most 16 bytes per problem.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self._keys = np.unique(keys.astype(np.uint64))

    @classmethod
    def of(cls, examples: Iterable[Example]) -> SeenProblems:
        """Return the problems of these examples."""
        keys = {key for example in examples for key in _keys(example)}
        return cls(np.fromiter(keys, np.uint64, len(keys)))

    @classmethod
    def load(cls, path: Path) -> SeenProblems:
        """Return what `save` wrote; a damaged file is a `CheckpointError`."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                return cls(arrays["keys"])
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path}: the record of the problems trained on is damaged ({error}). Put the file "
                "back, or train again."
            ) from error

    def save(self, path: Path) -> None:
        """Write the set to the file `path`, at once or not at all."""
        with atomic_write(path, "wb") as stream:
            np.savez(stream, keys=self._keys)

    def __or__(self, other: SeenProblems) -> SeenProblems:
        return SeenProblems(np.concatenate([self._keys, other._keys]))

    def __contains__(self, example: Example) -> bool:
        return bool(np.isin(list(_keys(example)), self._keys).any())


def _keys(example: Example) -> Iterator[np.uint64]:
    text = " ".join((example.prompt if example.prompt.strip() else example.completion).split())
    for kind, value in (("task", example.task_id), ("text", text)):
        key = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
        yield np.uint64(int.from_bytes(blake2b(key, digest_size=8).digest(), "little"))
