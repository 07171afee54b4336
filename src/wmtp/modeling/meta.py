"""Reading a model in the layout of facebook/multi-token-prediction.

A folder with `consolidated.pth` (or model-parallel shards `consolidated.00.pth`, `.01.pth`, ...) and
`params.json`. For n = 4 of 32 layers: layers 0 to 27 are the trunk, layer 28 is head 0, extra heads 0
to 2 are heads 1 to 3.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import init_empty_weights
from pydantic import ValidationError
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from wmtp.config.problems import explain
from wmtp.errors import CheckpointError
from wmtp.modeling.meta_layout import (
    Params,
    Sizes,
    feed_forward_width,
    half_split,
    slots,
)
from wmtp.modeling.meta_shards import Shard, joined, load_shard, require_names, weight_files
from wmtp.modeling.mtp import MTPModel

PARAMS_FILE = "params.json"


def is_meta_folder(folder: Path) -> bool:
    """Return whether `folder` holds a file of Meta's layout."""
    return (folder / PARAMS_FILE).is_file() or bool(weight_files(folder))


def read_meta(folder: str | Path) -> MTPModel:
    """Return the model in `folder`: a Llama backbone with as many heads as there are.

    Tensors keep their type and stay mapped from the file, which must not change while the model is
    used; only queries, keys and what lies in several shards are copied. Tokens that begin and end a
    text are not part of the layout and stay unset. Anything that is missing, does not fit or would run
    code is a `CheckpointError`.
    """
    folder = Path(folder)
    files = weight_files(folder)
    if not files:
        raise CheckpointError(
            f"{folder}: no consolidated.pth and no consolidated.00.pth there. Give the folder that holds "
            f"them beside {PARAMS_FILE}."
        )
    params = _read_params(folder / PARAMS_FILE)
    shards = [load_shard(file) for file in files]
    sizes = _sizes(params, shards, files)
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.feed_forward,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.attention_heads,
        num_key_value_heads=sizes.key_value_heads,
        rms_norm_eps=params.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": params.rope_theta},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    state: dict[str, Tensor] = {}
    places = set()
    for slot in slots(sizes):
        tensor = joined(slot, shards, files)
        if slot.rotary_heads:
            tensor = half_split(tensor, slot.rotary_heads)
        if tensor.data_ptr() in places:  # saved as one, such as a tied unembedding; trained apart
            tensor = tensor.clone()
        places.add(tensor.data_ptr())
        state[slot.ours] = tensor
    with init_empty_weights(include_buffers=False):
        backbone = AutoModelForCausalLM.from_config(config)
        model = MTPModel.from_backbone(backbone, sizes.extra_heads + 1)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _read_params(file: Path) -> Params:
    try:
        params = Params.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be read ({error.strerror}). Copy it from where the weights are from."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join([f"{file}", *map(str, first["loc"])])
        raise CheckpointError(f"{where}: {explain(first, Params)}") from error
    except ValueError as error:
        raise CheckpointError(
            f"{file}: not valid JSON ({error}). Mend or copy it again."
        ) from error
    if params.use_scaled_rope:
        raise CheckpointError(
            f"{file} use_scaled_rope: scaled rotary angles, as in Llama 3.1, are not read. Use the "
            "transformers edition of this model."
        )
    queries, keys = params.n_heads, params.n_kv_heads or params.n_heads
    if params.dim % (2 * queries) or queries % keys:
        raise CheckpointError(
            f"{file}: n_heads {queries} must divide dim {params.dim} into even parts, and n_kv_heads "
            f"{keys} must divide n_heads."
        )
    return params


def _sizes(params: Params, shards: Sequence[Shard], files: Sequence[Path]) -> Sizes:
    """Return the sizes on which `params.json` and the tensors agree."""
    folder = files[0].parent
    layers, extra_heads = _counts(params, shards[0], folder)
    sizes = Sizes(
        width=params.dim,
        layers=layers,
        extra_heads=extra_heads,
        attention_heads=params.n_heads,
        key_value_heads=params.n_kv_heads or params.n_heads,
        feed_forward=0,  # this and the next follow from the tensors
        vocabulary=0,
    )
    expected = {slot.name for slot in slots(sizes)}
    for shard, file in zip(shards, files, strict=True):
        require_names(shard, expected, file)
    columns = shards[0]["layers.0.attention.wo.weight"].shape[-1:].numel()
    if columns * len(files) != params.dim:
        raise CheckpointError(
            f"{folder}: layers.0.attention.wo.weight has {columns} columns in each of {len(files)} "
            f"files, but dim is {params.dim} in {PARAMS_FILE}. Copy all shards of one checkpoint, and "
            f"its {PARAMS_FILE}, into the folder."
        )
    inner = len(files) * shards[0]["layers.0.feed_forward.w1.weight"].shape[:1].numel()
    vocabulary = len(files) * shards[0]["output.weight"].shape[:1].numel()
    rule = inner
    if params.multiple_of is not None:
        rule = feed_forward_width(params.dim, params.multiple_of, params.ffn_dim_multiplier)
    _agree("the feed-forward width", rule, "w1", inner, folder)
    given = params.vocab_size if params.vocab_size > 0 else vocabulary
    _agree("vocab_size", given, "output.weight", vocabulary, folder)
    return replace(sizes, feed_forward=inner, vocabulary=vocabulary)


def _counts(params: Params, shard: Shard, folder: Path) -> tuple[int, int]:
    """Return the number of layers, head 0 included, and of extra heads."""
    names = "\n".join(shard)
    last_layer, last_extra_head = (
        max(map(int, re.findall(rf"^{group}\.(\d+)\.", names, re.M)), default=-1)
        for group in ("layers", "extra_heads")
    )
    layers, extra_heads = max(last_layer, 0) + 1, last_extra_head + 1
    # Meta counts the extra heads among the layers.
    if params.n_layers not in (layers, layers + extra_heads):
        _agree("n_layers", params.n_layers, "layers and extra heads", layers + extra_heads, folder)
    heads = extra_heads + 1
    _agree("n_future_tokens", params.n_future_tokens or heads, "heads", heads, folder)
    return layers, extra_heads


def _agree(setting: str, expected: int, tensors: str, found: int, folder: Path) -> None:
    if expected != found:
        raise CheckpointError(
            f"{folder}: {setting} is {expected} by {PARAMS_FILE}, but {found} by the tensors "
            f"({tensors}). Check that the files belong together."
        )
