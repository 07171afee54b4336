"""Sequential heads in a plain transformers folder, in the layout of DeepSeek-V3's release.

`generate(use_mtp=True)` of transformers, vLLM and SGLang draft with layers found there: after the N
layers of the backbone, head k is layer N + k - 1, with `enorm`, `hnorm`, `eh_proj` and `shared_head.norm`
beside the parts of the decoder layer, and copies of embedding and unembedding.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from wmtp.errors import CheckpointError
from wmtp.modeling.mtp import MTPModel
from wmtp.pretrained import load_causal_lm, load_config

# Families whose code and configuration in transformers know that layout.
_FAMILIES = ("deepseek_v3", "glm4_moe")


def why_left_out(model: MTPModel) -> str | None:
    """Return why `write_with_heads` cannot write the further heads of `model`, None where it can."""
    config = model.config
    if model.head_type != "sequential" or model.num_heads == 1:
        return "hf has head 0 alone"
    if config.model_type not in _FAMILIES:
        return f"in hf only {' and '.join(_FAMILIES)} have sequential heads"
    if config.first_k_dense_replace >= config.num_hidden_layers:
        return "their layers are dense, where hf expects mixtures of experts"
    return None


def write_with_heads(model: MTPModel, folder: Path) -> None:
    """Write backbone and further heads into `folder`, each tensor as it is."""
    backbone = model.backbone
    state = backbone.state_dict()
    for number, head in zip(_numbers(model), model.heads, strict=True):
        for name, tensor in head.state_dict().items():
            name = name.removeprefix("block.").replace("post_norm.", "shared_head.norm.")
            state[f"model.layers.{number}.{name}"] = tensor
        # Copies: one file may not hold a tensor under two names.
        for name, weight in _shared(model).items():
            state[f"model.layers.{number}.{name}"] = weight.detach().clone()
    backbone.save_pretrained(folder, state_dict=state)
    config = copy.deepcopy(model.config)
    config.num_nextn_predict_layers = len(model.heads)
    config.save_pretrained(folder)


def read_with_heads(folder: Path) -> MTPModel | None:
    """Return the model in `folder` with the further heads that it has there; None where it has none.

    Heads that are there in part, or with an embedding or unembedding of their own, are a
    `CheckpointError`: all heads of a model share those of its backbone.
    """
    config: Any = load_config(folder)
    if config.model_type not in _FAMILIES or not config.num_nextn_predict_layers:
        return None
    first, num_further = config.num_hidden_layers, config.num_nextn_predict_layers
    parts = _parts_of_heads(folder, range(first, first + num_further))
    if not parts:
        return None  # many copies of a release leave the heads out, and their number in
    # Loaded as ordinary layers, the blocks come out in transformers' own form.
    config.num_hidden_layers += num_further
    backbone: Any = load_causal_lm(folder, config=config)
    backbone.model.layers, blocks = backbone.model.layers[:first], backbone.model.layers[first:]
    backbone.config.num_hidden_layers = first
    model = MTPModel.from_backbone(backbone, num_further + 1, "sequential")
    for number, head, block in zip(_numbers(model), model.heads, blocks, strict=True):
        found = parts.get(number, {})
        for name, weight in _shared(model).items():
            if name in found and not torch.equal(found.pop(name), weight):
                raise CheckpointError(
                    f"{folder}: layer {number} has its own {name}, and heads share that of the "
                    "backbone here. Convert a copy without this layer."
                )
        state = {f"block.{name}": tensor for name, tensor in block.state_dict().items()}
        state |= {name.replace("shared_head.norm", "post_norm"): found[name] for name in found}
        missing = head.load_state_dict(state, strict=False).missing_keys
        if missing:
            raise CheckpointError(
                f"{folder}: layer {number} lacks {', '.join(sorted(missing))}. Copy all files of "
                "one checkpoint again."
            )
    return model


def _parts_of_heads(folder: Path, numbers: range) -> dict[int, dict[str, Tensor]]:
    """Return the tensors of heads that no ordinary layer has, by layer number and name."""
    pattern = re.compile(
        r"model\.layers\.(\d+)\.((?:enorm|hnorm|eh_proj|shared_head|embed_tokens)\..*)"
    )
    parts: dict[int, dict[str, Tensor]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no mapping
                match = pattern.fullmatch(name)
                if match is not None and int(match[1]) in numbers:
                    parts.setdefault(int(match[1]), {})[match[2]] = tensors.get_tensor(name)
    return parts


def hint_for_transformers(model: MTPModel) -> str | None:
    """Return what transformers must be told to find the heads; None where it knows.

    It looks for them under the layer numbers of the family's released models only.
    """
    numbers = list(_numbers(model))
    known = model.backbone._keys_to_ignore_on_load_unexpected or []
    if all(any(re.search(p, f"model.layers.{n}.") for p in known) for n in numbers):
        return None
    pattern = rf"model\.layers\.({'|'.join(map(str, numbers))})\."
    return (
        "before generate(use_mtp=True) say which layers are heads, transformers does not know: "
        f'model._keys_to_ignore_on_load_unexpected = [r"{pattern}"]'
    )


def _shared(model: MTPModel) -> dict[str, Tensor]:
    """Return what every head of the layout has a copy of, under its name there."""
    return {
        "embed_tokens.weight": model.backbone.get_input_embeddings().weight,
        "shared_head.head.weight": model.backbone.get_output_embeddings().weight,
    }


def _numbers(model: MTPModel) -> range:
    """Return the layer numbers of heads 1 to H-1."""
    first: int = model.config.num_hidden_layers
    return range(first, first + len(model.heads))
