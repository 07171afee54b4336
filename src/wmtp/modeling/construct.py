"""Further heads for a backbone, of either type."""

from __future__ import annotations

from typing import get_args

from torch import nn
from transformers import PreTrainedModel

from wmtp.modeling.heads import HeadInit, HeadType, new_heads
from wmtp.modeling.layout import probe
from wmtp.modeling.sequential import new_sequential_heads


def heads_on(
    backbone: PreTrainedModel,
    num_heads: int,
    head_type: HeadType,
    head_init: HeadInit,
    num_head_layers: int,
) -> nn.ModuleList:
    """Return the heads 1 to `num_heads - 1`; what they cannot be is a `ValueError`.

    A backbone that they cannot be put on exactly is a `CheckpointError` that says why.
    """
    if head_type not in get_args(HeadType):
        raise ValueError(f"head_type {head_type!r} is none of {get_args(HeadType)}")
    if head_type == "sequential" and num_head_layers != 1:
        raise ValueError(f"sequential heads have 1 layer, found num_head_layers {num_head_layers}")
    if num_heads < 1:
        raise ValueError(f"num_heads must be at least 1, found {num_heads}")
    if head_init not in get_args(HeadInit):
        raise ValueError(f"head_init {head_init!r} is none of {get_args(HeadInit)}")
    calls = probe(backbone, num_head_layers)
    if head_type == "sequential":
        return new_sequential_heads(backbone, num_heads, head_init, calls)
    return new_heads(backbone, num_heads, head_init, num_head_layers, calls)
