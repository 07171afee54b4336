"""Which checkpoint a run goes on from: the newest that is whole."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from wmtp.errors import CheckpointError
from wmtp.modeling.checkpoint import HEADS_FILE, SETTINGS_FILE

# The trainer writes its state last.
_STATE_FILE = "trainer_state.json"
_FILES = (
    "model*.safetensors",
    HEADS_FILE,
    SETTINGS_FILE,
    "optimizer.pt",
    "scheduler.pt",
    "rng_state*.pth",
)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint below `folder`, or None.

    One that was cut off while it was written is passed over. One that was whole and is no longer is a
    `CheckpointError`: to go on from an older one, or without its optimizer, would be another run.
    """
    for path in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        try:
            state = json.loads((path / _STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        damage = _damage(path, state)
        if damage:
            raise CheckpointError(
                f"{path}: the checkpoint is damaged: {damage}. Put the file back, or delete the folder of "
                "this checkpoint to go on from the one before it, or from the start where there is none."
            )
        return path
    return None


def _damage(path: Path, state: object) -> str | None:
    """Return what is wrong with a checkpoint, None when it is whole."""
    if not isinstance(state, dict) or "global_step" not in state:
        return f"{_STATE_FILE} is not the state of a trainer"
    for pattern in _FILES:
        files = list(path.glob(pattern))
        if not files:
            return f"{pattern} is missing"
        broken = [file.name for file in files if not _readable(file)]
        if broken:
            return f"{broken[0]} cannot be read"
    return None


def _readable(file: Path) -> bool:
    """Return whether a file has its whole length, by its own table of contents."""
    if file.suffix in (".pt", ".pth"):
        return zipfile.is_zipfile(file)
    if file.suffix != ".safetensors":
        return file.stat().st_size > 0
    try:
        with safe_open(file, framework="numpy"):
            return True
    except SafetensorError:
        return False


def step_of(path: Path) -> int:
    """Return the step of a checkpoint's folder."""
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1
