"""Targets of every head. Legend: B batch, S sequence, H heads (horizon).

Head k (from 0) at position t predicts the token at t + k + 1.
"""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

IGNORE_INDEX = -100


def horizon_labels(
    labels: Int[Tensor, "B S"], num_heads: int, document_ids: Int[Tensor, "B S"] | None = None
) -> Int[Tensor, "B S H"]:
    """Return the target of every position and head: `out[b, t, k] = labels[b, t + k + 1]`.

    `labels` holds the token itself, or -100 where it must not be learned (prompt, padding). Targets
    past the end of the sequence, or in another packed document than position t, are -100.
    """
    if num_heads < 1:
        raise ValueError(f"num_heads must be at least 1, found {num_heads}")
    batch, length = labels.shape
    out = labels.new_full((batch, length, num_heads), IGNORE_INDEX)
    for k in range(min(num_heads, length - 1)):
        out[:, : length - k - 1, k] = labels[:, k + 1 :]
        if document_ids is not None:
            other = document_ids[:, : length - k - 1] != document_ids[:, k + 1 :]
            out[:, : length - k - 1, k].masked_fill_(other, IGNORE_INDEX)
    return out
