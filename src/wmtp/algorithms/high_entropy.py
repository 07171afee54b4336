"""high-entropy: train on the targets where the model has the most ways to go on.

Wang et al. 2025 (arXiv:2506.01939) give gradient only to the top 20 % of tokens by the entropy of the
predictive distribution: the forking tokens, which decide the rest. Departures: theirs is
reinforcement learning and selects within a batch; here it is supervised, and the selection is within
each sequence and head, with mean 1.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from wmtp.algorithms.base import Algorithm, Batch, Weighting
from wmtp.config.section import Section
from wmtp.weighting import nan_where_not_finite, normalise_per_sequence, top_fraction


def high_entropy_weights(
    entropy: Float[Tensor, "B S H"], valid: Bool[Tensor, "B S H"], keep: float = 0.2
) -> Float[Tensor, "B S H"]:
    """Return `1 / (share kept)` at the largest `keep` share of entropies per sequence and head, else 0.

    `entropy[b, t, k]` is that of `p_k(. | x[<= t])` in nats.
    """
    chosen = top_fraction(entropy, valid, keep)
    return nan_where_not_finite(normalise_per_sequence(chosen.float(), valid), entropy, valid)


class HighEntropy(Algorithm["HighEntropy.Config"]):
    """Keep the targets that are predicted with the most entropy."""

    class Config(Section):
        """Settings of high-entropy selection."""

        keep: float = Field(0.2, gt=0, le=1, description="Share of valid targets kept per head.")

    needs = frozenset({"entropy"})

    def weigh(self, batch: Batch) -> Weighting:
        """Return 1 / keep at the chosen targets and 0 at the others."""
        assert batch.entropy is not None
        return Weighting(high_entropy_weights(batch.entropy, batch.valid, self.config.keep))
