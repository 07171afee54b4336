"""The checkpoint layout: a plain transformers folder, with the heads in a second file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wmtp.config.problems import explain
from wmtp.errors import CheckpointError
from wmtp.modeling.heads import HeadType
from wmtp.modeling.lora import merged_state
from wmtp.outputs import writing

if TYPE_CHECKING:
    from wmtp.modeling.mtp import MTPModel

HEADS_FILE = "mtp_heads.safetensors"
SETTINGS_FILE = "mtp_config.json"


class HeadSettings(BaseModel, frozen=True, strict=True, extra="forbid"):
    """What the second file holds: `num_heads` is H with head 0; `value_head` its kind or None.

    Files from before a field was added have its default.
    """

    num_heads: int = Field(ge=1, le=1024)
    head_type: HeadType = "parallel"
    num_head_layers: int = Field(1, ge=1, le=1024)
    value_head: Literal["linear", "mlp", "evidence"] | None = None
    value_trains_trunk: bool = False
    value_folds: int = Field(1, ge=1, le=1024)
    value_anchored: bool = False

    @model_validator(mode="after")
    def _value_head_is_possible(self) -> HeadSettings:
        if self.value_head is None and (self.value_folds > 1 or self.value_anchored):
            raise ValueError("value_folds and value_anchored need a value_head")
        if self.value_folds > 1 and self.value_trains_trunk:
            raise ValueError("value heads of several folds cannot train the trunk")
        return self


def write_model(model: MTPModel, path: Path, state_dict: dict[str, Tensor] | None) -> None:
    """Write backbone, heads and settings into the folder `path`; adapters are merged."""
    state = merged_state(model, model.state_dict() if state_dict is None else state_dict)
    prefix = "backbone."
    backbone = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    heads = {k: v.detach().cpu().contiguous() for k, v in state.items() if not k.startswith(prefix)}
    value = model.value_head
    settings = HeadSettings(
        num_heads=model.num_heads,
        head_type=model.head_type,
        num_head_layers=model.num_head_layers,
        value_head=None if value is None else value.kind,
        value_trains_trunk=value is not None and value.train_trunk,
        value_folds=1 if value is None else value.num_folds,
        value_anchored=model.value_anchor is not None,
    )
    with writing(path):
        model.backbone.save_pretrained(path, state_dict=backbone)
        save_file(heads, path / HEADS_FILE, metadata={"format": "pt"})
        (path / SETTINGS_FILE).write_text(settings.model_dump_json(indent=2) + "\n")


def has_heads(path: Path) -> bool:
    """Return whether `path` is a folder written by `write_model`."""
    return (path / SETTINGS_FILE).is_file()


def read_heads(path: Path) -> tuple[HeadSettings, dict[str, Tensor]]:
    """Return settings and head tensors of a folder written by `write_model`."""
    if not has_heads(path):
        raise CheckpointError(
            f"{path}: not a wmtp checkpoint ({SETTINGS_FILE} is missing). Give the folder of a run or "
            "its model folder; a plain transformers model goes into a recipe as model.pretrained."
        )
    try:
        settings = HeadSettings.model_validate_json((path / SETTINGS_FILE).read_text())
        return settings, load_file(path / HEADS_FILE)
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join([f"{path / SETTINGS_FILE}", *map(str, first["loc"])])
        raise CheckpointError(f"{where}: {explain(first, HeadSettings)}") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint is damaged: {error}. Train or export it again."
        ) from error


def load_heads(model: MTPModel, tensors: dict[str, Tensor], path: Path) -> None:
    """Put the head tensors of `read_heads(path)` into the model, bit for bit."""
    wanted = {k for k in model.state_dict() if not k.startswith("backbone.")}
    if wanted != set(tensors):
        odd = sorted(wanted ^ set(tensors))
        raise CheckpointError(
            f"{path}: the future heads do not fit the model: {len(odd)} tensors differ, such as "
            f"{odd[0]}. The folder mixes files of two checkpoints; write it again."
        )
    try:
        # Assigned, not copied: heads may have another dtype than the backbone.
        model.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from error
