"""Names of splits, and which split something belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from wmtp.errors import DataError, near_match


def hashed_split(name: str, *, test: float = 0.0, validation: float = 0.0) -> str:
    """Return "test", "validation" or "train" for `name`, in these shares on average.

    The same name and shares give the same answer in every process, whatever else the data holds.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


def require_split(source: str, split: str, known: Iterable[str]) -> None:
    """Raise a `DataError` naming the `known` splits of a source unless `split` is one of them."""
    names = list(known)
    if split not in names:
        raise DataError(
            f"{source} has no split {split!r}.{near_match(split, names)} Known: {', '.join(names)}."
        )
