"""The folder of a run: what lies where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp.errors import CheckpointError
from wmtp.inputs import read_json_object


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder. `run.json` is written last: a run that has it is complete."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """The resolved environment."""
        return self.path / "environment.yaml"

    @property
    def provenance(self) -> Path:
        """Versions, commit, machine and command."""
        return self.path / "provenance.json"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that this run trained, if it trained one."""
        return self.path / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints during training, deleted when the run is complete."""
        return self.path / "checkpoints"

    @property
    def held_out_values(self) -> Path:
        """What a critic said of the held-out states at the end of phase `value`."""
        return self.path / "held_out_values.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON object per logging event."""
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        """The final model with its tokenizer."""
        return self.path / "model"

    @property
    def algorithm_state(self) -> Path:
        """The running statistics of the algorithm at the end of training."""
        return self.path / "algorithm.json"

    @property
    def seen(self) -> Path:
        """Which problems the model was trained on, as hashes."""
        return self.path / "seen.npz"

    @property
    def weights(self) -> Path:
        """The weights of a few samples, token by token."""
        return self.path / "weights.json"

    @property
    def summary(self) -> Path:
        """Totals of a complete run."""
        return self.path / "run.json"

    def evaluation(self, name: str) -> Path:
        """The folder of one evaluation."""
        return self.path / "evaluation" / name

    def totals(self) -> dict[str, Any] | None:
        """Return what `run.json` holds, None for a run that is not complete."""
        if not self.summary.is_file():
            return None
        return read_json_object(self.summary)


def model_folder(checkpoint: str | Path) -> Path:
    """Return the folder with the model, given it or the run folder around it."""
    path = Path(checkpoint)
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such folder. Give the folder of a run, or one that holds a model."
        )
    if (path / "config.json").is_file():
        return path
    inside = RunFolder(path).model
    if inside.is_dir():
        return inside
    if RunFolder(path).recipe.is_file():
        raise CheckpointError(
            f"{path}: its training is not complete. Run `wmtp train ... --resume` first."
        )
    meta = (path / "params.json").is_file()
    fix = f"Run `wmtp convert native {path} OUTPUT` first." if meta else "Give a model folder."
    raise CheckpointError(f"{path}: {'in the layout of Meta' if meta else 'no model in it'}. {fix}")
