"""Attention of one query per row, each over its own keys alone.

In a batch of rows of different lengths a key stands at another place, beside other padding, for every
company that its row is in, and sums of float32 numbers change with that in their last bits. Row by row,
the work has the shape of the row's own length, and its result is the row's alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

_ALIGNMENT = 64  # bytes, of the widest vector registers


@contextmanager
def attention_by_row(backbone: PreTrainedModel) -> Iterator[bool]:
    """Let a model attend row by row while the context is open; yields False where it cannot.

    Its code must go through the attention interface of transformers, with `sdpa` or `eager`.
    """
    usual = str(backbone.config._attn_implementation)
    name = f"{usual}_by_row"
    if name not in _FUNCTIONS or not backbone._can_set_attn_implementation():
        yield False
        return
    backbone.set_attn_implementation(name)
    try:
        yield True
    finally:
        backbone.set_attn_implementation(usual)


def _by_row(function_of: Callable[[nn.Module], Callable[..., Any]]) -> Callable[..., Any]:
    """Return an attention function of transformers that calls another one for each row."""

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        attend = function_of(module)
        num_rows, _, num_queries, _ = query.shape
        if num_queries > 1 or num_rows == 1:
            return attend(module, query, key, value, attention_mask, **options)
        width = key.shape[2]
        lengths = [width] * num_rows
        if attention_mask is not None:
            # Rows end at the last column and have no gaps, so their number of keys says where they begin.
            seen = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
            lengths = seen[:, 0, 0].sum(-1).tolist()
        rows = []
        for row, length in enumerate(lengths):
            own = slice(row, row + 1)
            keys, values = (_aligned(x[own, :, width - length :]) for x in (key, value))
            rows.append(attend(module, query[own], keys, values, None, **options)[0])
        return torch.cat(rows), None

    return attention


def _aligned(states: Tensor) -> Tensor:
    """Return `states` where vector instructions load them alike, whatever column they begin at."""
    return states if states.data_ptr() % _ALIGNMENT == 0 else states.clone()


def _eager(module: nn.Module) -> Callable[..., Any]:
    return sys.modules[type(module).__module__].eager_attention_forward


_FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sdpa_by_row": (_by_row(lambda _: sdpa_attention_forward), sdpa_mask),
    "eager_by_row": (_by_row(_eager), eager_mask),
}
for _name, (_function, _mask) in _FUNCTIONS.items():
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, _mask)
