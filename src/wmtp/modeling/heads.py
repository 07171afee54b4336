"""How further heads begin: as copies of head 0, as the identity on the residual stream, or at random."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from wmtp.errors import CheckpointError
from wmtp.modeling.layout import LayerCall, decoder_layers, evaluating, run_head, same

HeadType = Literal["parallel", "sequential"]
HeadInit = Literal["copy", "linear-residual", "random"]

# What ends the attention and the feed-forward branch of a layer, in the words of the families.
_ATTENTION_ENDS = {"o_proj", "out_proj", "c_proj", "dense"}
_FEED_FORWARD_ENDS = {"down_proj", "down_proj_bias", "dense_4h_to_h", "fc2", "fc_out", "w2"}
# Where a norm stands behind the branch instead: that of the feed-forward part, that of attention.
_POST_NORMS = (
    ("post_feedforward_layernorm", "post_attention_layernorm"),
    ("post_mlp_layernorm", "post_self_attn_layernorm"),
    ("post_mlp_layernorm", "post_attention_layernorm"),
)


def new_heads(
    backbone: PreTrainedModel,
    num_heads: int,
    init: HeadInit,
    num_layers: int,
    calls: list[LayerCall],
) -> nn.ModuleList:
    """Return the heads 1 to `num_heads - 1`, each of `num_layers` decoder layers.

    `calls` are those of `probe`: with them it is checked that layers do not mind their new number and
    that a `linear-residual` head is the identity. Raises a `CheckpointError` where it is not so.
    """
    layers = decoder_layers(backbone)
    heads = nn.ModuleList()
    for k in range(1, num_heads):
        # One configuration for all: what is switched there later (attention kernels) holds for heads too.
        head = copy.deepcopy(layers[-num_layers:], {id(backbone.config): backbone.config})
        before = _output(head, calls) if calls else None
        for i, layer in enumerate(head):
            _set_layer_index(layer, len(layers) + (k - 1) * num_layers + i)
        if before is not None and not same(_output(head, calls), before):
            raise _impossible(backbone, init, "what a layer does depends on its number")
        if init == "random":
            for layer in head:
                draw_anew(layer, backbone)
        if init == "linear-residual":
            for layer in head:
                _silence(layer)
            if calls and not torch.equal(_output(head, calls), calls[0].hidden):
                raise _impossible(
                    backbone, init, "silent branches still change the residual stream"
                )
        heads.append(head[0] if num_layers == 1 else nn.ModuleList(head))
    return heads


def head_layers(head: nn.Module) -> Sequence[nn.Module]:
    """Return the decoder layers of a head; a head of one layer is that layer."""
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def _set_layer_index(layer: nn.Module, index: int) -> None:
    """Number a copied layer, so that a key/value cache keeps its states apart."""
    for module in layer.modules():
        if hasattr(module, "layer_idx"):
            setattr(module, "layer_idx", index)  # noqa: B010 - a plain number, not a tensor


@torch.no_grad()
def draw_anew(module: nn.Module, backbone: PreTrainedModel) -> None:
    """Initialise a copied module by the family's own rules, from the leaves up as transformers does."""
    for tensor in module.parameters():
        tensor.fill_(torch.nan)
        tensor._is_hf_initialized = False  # type: ignore[attr-defined]
    module.apply(backbone._init_weights)
    for name, tensor in module.named_parameters():
        if not tensor.is_meta and tensor.isnan().any():
            raise _impossible(backbone, "random", f"the family has no rule to initialise {name}")


@torch.no_grad()
def _silence(layer: nn.Module) -> None:
    """Zero what ends each branch of a copied layer, so that only the residual stream is left."""
    for names in _POST_NORMS:
        if all(hasattr(layer, name) for name in names):
            for name in names:
                _silence_norm(getattr(layer, name))
            return
    for name, tensor in layer.named_parameters():
        if (_ATTENTION_ENDS | _FEED_FORWARD_ENDS) & set(name.split(".")):
            tensor.zero_()


def _silence_norm(norm: Any) -> None:
    weight = norm.weight
    weight.zero_()
    if norm(torch.ones_like(weight)).any():  # Gemma's norms multiply by 1 + weight
        weight.fill_(-1.0)


@torch.no_grad()
def _output(head: Sequence[nn.Module], calls: list[LayerCall]) -> Tensor:
    with evaluating(nn.ModuleList(head)):
        return run_head(head, calls, calls[0].hidden)


def _impossible(backbone: PreTrainedModel, init: HeadInit, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{backbone.config.model_type}: head_init {init} is not possible: {reason}. Choose another."
    )
