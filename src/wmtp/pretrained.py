"""Loading a causal language model of transformers whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from wmtp.errors import CheckpointError


def load_causal_lm(
    path: str | Path, exactly: bool = False, config: PretrainedConfig | None = None
) -> PreTrainedModel:
    """Return the model in a folder or under a hub id; safetensors only, in the precision of its file.

    transformers draws tensors that are missing at random; here that is a `CheckpointError`. `exactly`
    refuses tensors too that the model has no place for, which checkpoints of others may hold. `config`
    replaces the folder's own.
    """
    loaded: Any
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            path, config=config, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{path}: no causal language model could be loaded: {first} Expected a folder with "
            "config.json and safetensors weights, or a hub id (with network access)."
        ) from error
    backbone, found = loaded
    kinds = ("missing_keys", "mismatched_keys", *(("unexpected_keys",) if exactly else ()))
    for kind in kinds:
        if found[kind]:
            raise CheckpointError(
                f"{path}: the weights do not fit config.json: {len(found[kind])} "
                f"{kind.removesuffix('_keys')} tensors, such as {sorted(map(str, found[kind]))[0]}. Copy "
                "all files of one checkpoint again."
            )
    model: PreTrainedModel = backbone
    return model
