"""token-probability: what the model already finds likely weighs more.

Dynamic fine-tuning of Wu et al. 2025 (arXiv:2508.05629, equation 9): the cross entropy of a token times
its own probability, without gradient. That takes away the factor 1/p by which supervised fine-tuning
follows unlikely tokens. Departures: weights are normalised to mean 1 per sequence and head, so that the
size of a step is that of the baseline and sequences weigh alike; and there are H heads.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from wmtp.algorithms.base import Algorithm, Batch, Weighting
from wmtp.config.section import Section
from wmtp.weighting import softmax_per_sequence


def token_probability_weights(
    ce: Float[Tensor, "B S H"], valid: Bool[Tensor, "B S H"], power: float = 1.0
) -> Float[Tensor, "B S H"]:
    """Return `p^power / mean(p^power)` over the valid targets of each sequence and head; p = exp(-ce)."""
    return softmax_per_sequence(-power * ce.detach(), valid)


class TokenProbability(Algorithm["TokenProbability.Config"]):
    """Weights in proportion to the probability of the target, as dynamic fine-tuning has them."""

    class Config(Section):
        """Settings of token-probability weighting."""

        power: float = Field(1.0, ge=0, description="Power of the probability; 0 is uniform.")

    def weigh(self, batch: Batch) -> Weighting:
        """Return the probabilities of the targets, with mean 1."""
        assert batch.ce is not None
        return Weighting(token_probability_weights(batch.ce, batch.valid, self.config.power))
