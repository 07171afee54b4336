"""What is looked at beside loss and weights: gradient of each head, difficulty of each target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wmtp.data.encode import EncodedSet
from wmtp.modeling.layout import decoder_layers
from wmtp.modeling.mtp import MTPModel
from wmtp.weighting import align_to_heads

# Quartiles of more values than this are those of every n-th.
_MAX_VALUES = 10_000_000


def head_gradient_norms(model: MTPModel) -> dict[int, Tensor]:
    """Return the L2 norm of the gradient of the parameters that head k has for itself, by k.

    Those of parallel head 0 are the last layers of the backbone. Sequential head 0 has none and is left
    out, and so is a head that has no gradient.
    """
    parts = dict(enumerate(model.heads, start=1))
    if model.head_type == "parallel":
        last = decoder_layers(model.backbone)[-model.num_head_layers :]
        parts = {0: torch.nn.ModuleList(last), **parts}
    gradients = {
        k: [p.grad for p in m.parameters() if p.grad is not None] for k, m in parts.items()
    }
    return {k: torch.nn.utils.get_total_norm(found) for k, found in gradients.items() if found}


def difficulty_edges(data: EncodedSet) -> tuple[float, ...] | None:
    """Return the quartiles of the reference's cross entropy (nats) over the tokens that are learned.

    None where the data do not have it, or have it for no token.
    """
    found = [
        np.asarray(item.ref_ce)[1:][item.completion[1:]]
        for item in data.items
        if item.ref_ce is not None
    ]
    values = np.concatenate(found) if found else np.empty(0)
    if not len(values):
        return None
    values = values[:: -(-len(values) // _MAX_VALUES)].astype(np.float32)
    return tuple(np.quantile(values, [0.25, 0.5, 0.75]).tolist())


def quartile_of_targets(
    ref_ce: Float[Tensor, "B S"], edges: Sequence[float], num_heads: int
) -> Int[Tensor, "B S H"]:
    """Return the quartile of every target's difficulty, from 0 (easy for the reference) to 3."""
    quartile = torch.zeros_like(ref_ce, dtype=torch.long)
    for edge in edges:
        quartile += ref_ce > edge
    return align_to_heads(quartile, num_heads)
