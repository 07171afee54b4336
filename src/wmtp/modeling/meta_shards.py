"""Tensors of `consolidated*.pth`: found, loaded without running code, and put together from shards."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from wmtp.errors import CheckpointError
from wmtp.modeling.meta_layout import Slot

Shard = dict[str, Tensor]

# What torch.load raises when bytes of an archive are wrong.
_DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
)


def weight_files(folder: Path) -> list[Path]:
    """Return `consolidated.pth` alone, or `consolidated.00.pth` and on; [] where there is neither.

    Gaps in the numbers, or both kinds in one folder, are a `CheckpointError`.
    """
    whole = folder / "consolidated.pth"
    shards = sorted(folder.glob("consolidated.[0-9][0-9].pth"))
    if whole.is_file() and shards:
        raise CheckpointError(
            f"{folder}: holds both {whole.name} and {shards[0].name}. Keep the files of one checkpoint."
        )
    for number, file in enumerate(shards):
        if file.name != f"consolidated.{number:02d}.pth":
            raise CheckpointError(
                f"{folder}: consolidated.{number:02d}.pth is missing, {file.name} is there. Copy all "
                "shards of the checkpoint into the folder."
            )
    return [whole] if whole.is_file() else shards


def load_shard(file: Path) -> Shard:
    """Return the tensors of one file, mapped from the disk rather than copied; runs no code from it."""
    try:
        if not zipfile.is_zipfile(file):
            raise CheckpointError(
                f"{file}: is cut off, or not a file of torch.save (a zip archive). Copy or download it "
                "again."
            )
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = (
            f"holds more than tensors ({found[1]})" if found else "is damaged, or no plain weights"
        )
        raise CheckpointError(
            f"{file}: {what}. Loading it would run code from the file, which wmtp never does. Get plain "
            "weights from their publisher."
        ) from error
    except _DAMAGE as error:
        first = f"{error}".strip().partition("\n")[0]
        raise CheckpointError(
            f"{file}: is damaged ({type(error).__name__}: {first}). Copy or download it again."
        ) from error
    if not isinstance(loaded, dict) or not all(map(_is_plain, loaded.values())):
        raise CheckpointError(f"{file}: expected a dictionary of tensors, as Meta's releases hold.")
    # Rotary angles are computed, not learned.
    tensors = {str(k): v for k, v in loaded.items() if not str(k).endswith("rope.freqs")}
    kinds = {v.dtype for v in tensors.values()}
    if len(kinds) != 1 or not next(iter(kinds)).is_floating_point:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds)) or "none"
        raise CheckpointError(
            f"{file}: expected tensors of one floating-point type, found {names}."
        )
    return tensors


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def require_names(shard: Shard, expected: set[str], file: Path) -> None:
    """Refuse a shard whose tensors are not those expected, naming the first ones."""
    for problem, names in (("lacks", expected - set(shard)), ("also has", set(shard) - expected)):
        if names:
            shown = ", ".join(sorted(names)[:3])
            raise CheckpointError(
                f"{file}: {problem} {shown} ({len(names)} in all). Expected the layout of "
                "facebook/multi-token-prediction; copy or download the checkpoint again."
            )


def joined(slot: Slot, shards: Sequence[Shard], files: Sequence[Path]) -> Tensor:
    """Return the whole tensor of `slot`, checked against its shape; a single shard is not copied."""
    pieces = [shard[slot.name] for shard in shards]
    shapes = {tuple(piece.shape) for piece in pieces}
    if len(shapes) > 1:
        shown = ", ".join(_shown(shape) for shape in sorted(shapes))
        raise CheckpointError(
            f"{files[0].parent}: the shards hold {slot.name} in different shapes: {shown}. They are "
            "not of one checkpoint; copy all of them again."
        )
    whole = pieces[0]
    if len(pieces) > 1 and len(slot.shape) == 1:
        if not all(torch.equal(piece, whole) for piece in pieces):
            raise CheckpointError(
                f"{files[0].parent}: the shards hold different values of {slot.name}, which each has "
                "whole. They are not of one checkpoint; copy all of them again."
            )
    elif len(pieces) > 1 and whole.ndim == 2:
        # Llama 2 cuts the embedding by columns, Llama 3 by rows.
        split = int(whole.shape[0] == slot.shape[0]) if slot.split is None else slot.split
        whole = torch.cat(pieces, dim=split)
    if tuple(whole.shape) != slot.shape:
        raise CheckpointError(
            f"{files[0].parent}: {slot.name} is {_shown(tuple(whole.shape))}, expected "
            f"{_shown(slot.shape)} by params.json and the other tensors. Check that they belong together."
        )
    return whole


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
