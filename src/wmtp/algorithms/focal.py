"""focal: what the model already knows weighs less.

The factor of the focal loss of Lin et al. 2017 (arXiv:1708.02002, equation 4). Departures: the factor
has no gradient, for weights are constants here; it is normalised to mean 1 per sequence and head; there
is no class weight alpha.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from wmtp.algorithms.base import Algorithm, Batch, Weighting
from wmtp.config.section import Section
from wmtp.weighting import softmax_per_sequence

# 1 - p is not told from 0 in float32 below this.
_SMALLEST_CE = 1e-7


def focal_weights(
    ce: Float[Tensor, "B S H"], valid: Bool[Tensor, "B S H"], gamma: float = 2.0
) -> Float[Tensor, "B S H"]:
    """Return `(1 - p)^gamma`, divided by its mean over each sequence and head; p = exp(-ce)."""
    log_rest = torch.log(-torch.expm1(-ce.detach().clamp(min=_SMALLEST_CE)))
    return softmax_per_sequence(gamma * log_rest, valid)


class Focal(Algorithm["Focal.Config"]):
    """Weights of the focal loss."""

    class Config(Section):
        """Settings of focal weighting."""

        gamma: float = Field(2.0, ge=0, description="Power of 1 - p; 0 is uniform.")

    def weigh(self, batch: Batch) -> Weighting:
        """Return the focal factors, with mean 1."""
        assert batch.ce is not None
        return Weighting(focal_weights(batch.ce, batch.valid, self.config.gamma))
