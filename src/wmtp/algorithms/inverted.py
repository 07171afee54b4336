"""inverted: another scheme's weights with their ranks reversed, the least important target first."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from wmtp.algorithms.base import Batch
from wmtp.algorithms.nested import Control, ControlConfig
from wmtp.weighting import reassign, row_noise


def inverted_weights(
    weights: Float[Tensor, "B S H"], valid: Bool[Tensor, "B S H"], seeds: list[int]
) -> Float[Tensor, "B S H"]:
    """Return the same weights per sequence and head in reversed order: the largest where the least was.

    ::

        w'[rank r] = w[rank n - 1 - r]      among n valid targets

    Ranks come from the weights alone. Targets of equal weight are ordered at random, from a seed per
    row: a selection of 0.6 becomes one of all that was left out and of a random part of the rest.
    """
    return reassign(weights, valid, (row_noise(weights, seeds), -weights))


class Inverted(Control["Inverted.Config"]):
    """The control that should lose: a scheme that points at the truth must do better than this."""

    class Config(ControlConfig):
        """Which scheme to invert."""

    def move(self, weights: Float[Tensor, "B S H"], batch: Batch) -> Float[Tensor, "B S H"]:
        """Return the weights with reversed ranks."""
        return inverted_weights(weights, batch.valid, self.row_seeds(batch))
