"""Writing sequential heads into a plain transformers folder, in the layout of DeepSeek-V3's release.

`generate(use_mtp=True)` of transformers, vLLM and SGLang draft with layers found there: after the N
layers of the backbone, head k is layer N + k - 1, with `enorm`, `hnorm`, `eh_proj` and `shared_head.norm`
beside the parts of the decoder layer, and copies of embedding and unembedding.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

from wmtp.modeling.mtp import MTPModel

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
    shared = {
        "embed_tokens.weight": backbone.get_input_embeddings().weight,
        "shared_head.head.weight": backbone.get_output_embeddings().weight,
    }
    for number, head in zip(_numbers(model), model.heads, strict=True):
        for name, tensor in head.state_dict().items():
            name = name.removeprefix("block.").replace("post_norm.", "shared_head.norm.")
            state[f"model.layers.{number}.{name}"] = tensor
        for (
            name,
            weight,
        ) in shared.items():  # copies: one file may not hold a tensor under two names
            state[f"model.layers.{number}.{name}"] = weight.detach().clone()
    backbone.save_pretrained(folder, state_dict=state)
    config = copy.deepcopy(model.config)
    config.num_nextn_predict_layers = len(model.heads)
    config.save_pretrained(folder)


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


def _numbers(model: MTPModel) -> range:
    """Return the layer numbers of heads 1 to H-1."""
    first: int = model.config.num_hidden_layers
    return range(first, first + len(model.heads))
