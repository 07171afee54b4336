"""Low-rank adapters on the backbone (Hu et al. 2022, arXiv:2106.09685), by the package peft.

The linear layers of trunk and head 0 are frozen and get adapters; heads 1 to H-1 and the value head
train whole. Embedding, unembedding and norms of the backbone are frozen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from wmtp.errors import CheckpointError, ConfigError, near_match

if TYPE_CHECKING:
    from wmtp.modeling.mtp import MTPModel

ADAPTER_FILE = "adapter.safetensors"
_PARTS = re.compile(r"\.lora_[AB]\.default\.weight$")


def add_lora(
    model: MTPModel,
    rank: int = 16,
    alpha: float = 32.0,
    dropout: float = 0.0,
    target_modules: Literal["all-linear"] | Sequence[str] = "all-linear",
) -> None:
    """Freeze the backbone of `model` and put adapters on its linear layers, in place.

    The output of such a layer becomes `W x + (alpha / rank) B A dropout(x)`; B begins as zero, so the
    model's outputs do not change yet. `target_modules` are names of layers, whole or their last parts
    (`q_proj`, `self_attn.q_proj`); `all-linear` takes every linear layer but the unembedding. A name
    that fits no layer is a `ConfigError`, and so is a missing peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            "model.lora needs the package peft: pip install 'wmtp[lora]'. Or leave model.lora out."
        ) from error
    layers = _linear_layers(model.backbone)
    names = list(layers) if target_modules == "all-linear" else _chosen(layers, target_modules)
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=names,
        fan_in_fan_out=isinstance(layers[names[0]], Conv1D),
    )
    inject_adapter_in_model(settings, model.backbone)


def is_adapted(model: MTPModel) -> bool:
    """Return whether `add_lora` has been at the model."""
    return bool(_adapted(model))


def merged_state(model: MTPModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` of `model` with every adapter added to the weight it stands beside.

    The names are those of the model without adapters: `W + (alpha / rank) B A`, summed in float32 and
    given in the type of W.
    """
    merged = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
    for name, layer in _adapted(model).items():
        a, b = (merged.pop(f"{name}.lora_{part}.default.weight").float() for part in "AB")
        weight = merged[f"{name}.weight"]
        delta = layer.scaling["default"] * (b @ a)
        delta = delta.T if layer.fan_in_fan_out else delta
        merged[f"{name}.weight"] = (weight.float() + delta).to(weight.dtype)
    return merged


def save_adapter(model: MTPModel, path: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write the adapters alone, so that training can go on from them bit for bit."""
    state = model.state_dict() if state is None else state
    adapter = {k: v.detach().cpu().contiguous() for k, v in state.items() if _PARTS.search(k)}
    save_file(adapter, path / ADAPTER_FILE, metadata={"format": "pt"})


def restore_adapted(model: MTPModel, saved: MTPModel, path: Path) -> None:
    """Put back adapters and heads of the checkpoint in `path`; `saved` is its merged model.

    The frozen weights are those that `model` already has. A checkpoint without adapters, with others,
    or on other frozen weights is a `CheckpointError`.
    """
    try:
        adapter = load_file(path / ADAPTER_FILE)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path / ADAPTER_FILE}: cannot be read: {error}. Put the file back, or delete the folder of "
            "this checkpoint to go on from the one before it."
        ) from error
    own, theirs = model.state_dict(), saved.state_dict()
    if adapter.keys() != {name for name in own if _PARTS.search(name)}:
        raise CheckpointError(f"{path / ADAPTER_FILE}: adapts other layers than model.lora says.")
    heads = {k: v for k, v in theirs.items() if not k.startswith("backbone.")}
    frozen = sorted(k for k in theirs.keys() & own.keys() if k.startswith("backbone."))
    changed = [name for name in frozen if not torch.equal(own[name].cpu(), theirs[name])]
    if changed:
        raise CheckpointError(
            f"{path}: the run began with another base than model.pretrained is now: {changed[0]} differs. "
            "Put the base back."
        )
    model.load_state_dict({**heads, **adapter}, strict=False)


def _linear_layers(backbone: Any) -> dict[str, nn.Module]:
    """Return the linear layers by name, without the unembedding."""
    return {
        name: module
        for name, module in backbone.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and module is not backbone.get_output_embeddings()
    }


def _chosen(layers: Mapping[str, nn.Module], wanted: Sequence[str]) -> list[str]:
    """Return the names of the layers that `wanted` names; refuse a name that fits none."""
    last_parts = sorted({name.rpartition(".")[2] for name in layers})
    chosen = []
    for target in wanted:
        found = [name for name in layers if f".{name}".endswith(f".{target}")]
        if not found:
            raise ConfigError(
                f"model.lora.target_modules: no linear layer is called {target!r}."
                f"{near_match(target, last_parts)} This model has {', '.join(last_parts)}."
            )
        chosen += found
    return chosen


def _adapted(model: MTPModel) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
