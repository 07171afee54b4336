"""What goes into a forward of the model besides tokens, and what comes out.

Legend: B batch, S sequence, H heads, V vocabulary, K folds of the value head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from transformers.utils import ModelOutput

# The weights [B,S,H] of a batch, given what is known before its loss: the values of its states and those of
# the anchor where there are any, and the cross entropy [B,S] of head 0 where that is asked for.
Weigh = Callable[[Tensor | None, Tensor | None, Tensor | None], Tensor]


@dataclass
class MTPOutput(ModelOutput):  # a kind that data-parallel wrappers look into
    """What a forward gives: `ce [B,S,H]` with labels, `logits [B,S,V]` of head 0 without.

    weighted_ce: the sum of weights times `ce` where the weights were known before the loss; `ce` is then
    detached. value: V after reading each token, where there is a value head; those of K heads that are
    fitted on different folds, `[B,S,K]`. value_anchor: the same of the head as it was at the last
    `anchor_value`. predictions: the likeliest token of every head, and entropy: that of every head's
    distribution in nats, when asked for.
    """

    ce: Float[Tensor, "B S H"] | None = None
    weighted_ce: Float[Tensor, ""] | None = None
    predictions: Int[Tensor, "B S H"] | None = None
    value: Float[Tensor, "B S *K"] | None = None
    value_anchor: Float[Tensor, "B S *K"] | None = None
    logits: Float[Tensor, "B S V"] | None = None
    entropy: Float[Tensor, "B S H"] | None = None
