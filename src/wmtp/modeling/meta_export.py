"""Writing a model in the layout of facebook/multi-token-prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wmtp.errors import CheckpointError
from wmtp.modeling.meta import PARAMS_FILE
from wmtp.modeling.meta_layout import (
    DEFAULT_ROPE_THETA,
    Sizes,
    feed_forward_width,
    interleaved,
    slots,
)
from wmtp.modeling.mtp import MTPModel
from wmtp.outputs import atomic_write, atomic_write_json


def write_meta(model: MTPModel, folder: str | Path) -> None:
    """Write `consolidated.00.pth` and, last, `params.json` into `folder`, each whole or not at all.

    `read_meta` gives back every tensor bit for bit; a tied unembedding is written out, and a value head
    is left out. What the layout cannot express is a `CheckpointError`: another family than llama,
    biases, scaled rotary angles, another activation, attention heads that do not add up to the width,
    sequential heads.
    """
    folder = Path(folder)
    _require_plain_llama(model)
    config = model.config
    sizes = Sizes(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        extra_heads=model.num_heads - 1,
        attention_heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads,
        feed_forward=config.intermediate_size,
        vocabulary=config.vocab_size,
    )
    ours = model.state_dict()
    state: dict[str, Tensor] = {}
    for slot in slots(sizes):
        tensor = ours[slot.ours].detach().cpu()
        # A copy where torch.save would write more than the tensor, or the same memory twice.
        tied = config.tie_word_embeddings and slot.name == "output.weight"
        if slot.rotary_heads:
            tensor = interleaved(tensor, slot.rotary_heads)
        elif tied or tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        state[slot.name] = tensor
    with atomic_write(folder / "consolidated.00.pth", "wb") as file:
        torch.save(state, file)
    atomic_write_json(folder / PARAMS_FILE, _params(sizes, config))


def _params(sizes: Sizes, config: Any) -> dict[str, Any]:
    """Return the settings; those with a default only where they differ, as Meta's code has not all."""
    plain = feed_forward_width(sizes.width, 1)
    inner = sizes.feed_forward
    multiple_of = 256 if feed_forward_width(sizes.width, 256) == inner else inner
    params = {
        "dim": sizes.width,
        "n_layers": sizes.layers + sizes.extra_heads,
        "n_heads": sizes.attention_heads,
        "vocab_size": sizes.vocabulary,
        "multiple_of": multiple_of,
        "norm_eps": config.rms_norm_eps,
    }
    if sizes.key_value_heads != sizes.attention_heads:
        params["n_kv_heads"] = sizes.key_value_heads
    if inner < plain:
        params["ffn_dim_multiplier"] = inner / plain
    if (theta := config.rope_parameters["rope_theta"]) != DEFAULT_ROPE_THETA:
        params["rope_theta"] = theta
    if sizes.extra_heads:
        params["n_future_tokens"] = sizes.extra_heads + 1
    return params


def _require_plain_llama(model: MTPModel) -> None:
    config = model.config
    problem = None
    if config.model_type != "llama":
        problem = f"the family is {config.model_type}"
    elif model.num_head_layers != 1:
        problem = f"it has heads of {model.num_head_layers} layers"
    elif config.attention_bias or config.mlp_bias:
        problem = "its layers have biases"
    elif config.rope_parameters["rope_type"] != "default" or len(config.rope_parameters) > 2:
        problem = f"its rotary angles are scaled ({config.rope_parameters})"
    elif config.hidden_act != "silu":
        problem = f"its activation is {config.hidden_act}"
    elif config.head_dim * config.num_attention_heads != config.hidden_size:
        problem = (
            f"{config.num_attention_heads} attention heads of {config.head_dim} do not add up to its "
            f"width {config.hidden_size}"
        )
    elif model.head_type != "parallel":
        problem = f"its heads are {model.head_type}"
    if problem:
        raise CheckpointError(
            f"Meta's layout cannot hold this model: {problem}. Expected a plain Llama; choose the layout "
            "native or hf."
        )
