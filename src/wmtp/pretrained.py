"""Loading a causal language model of transformers whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from wmtp.errors import CheckpointError

# What transformers raises when files are missing, damaged, or need a package that is not there.
_DAMAGE = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(ImportError, SafetensorError, StrictDataclassError),
)


def load_causal_lm(
    path: str | Path, exactly: bool = False, config: PretrainedConfig | None = None
) -> PreTrainedModel:
    """Return the model in a folder or under a hub id; safetensors only, in the precision of its file.

    transformers draws tensors that are missing at random; here that is a `CheckpointError`. `exactly`
    refuses tensors too that the model has no place for, which checkpoints of others may hold. `config`
    replaces the folder's own.
    """
    with _explaining(path):
        _require_index_of_this_folder(Path(path))
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
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


def load_config(path: str | Path) -> PretrainedConfig:
    """Return the configuration in a folder or under a hub id; none runs code that comes with it."""
    with _explaining(path):
        config: PretrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    return config


@contextmanager
def _explaining(path: str | Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: no causal language model could be loaded: {first.removesuffix('.')}. Expected a "
            "folder with config.json and safetensors weights, or a hub id (with network access)."
        ) from error


def _require_index_of_this_folder(folder: Path) -> None:
    """Refuse a list of shards that names anything but safetensors files beside it.

    transformers would follow it to other folders, and to files of pickles.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{index.name} names {name}, which is no safetensors file beside it")
