"""shuffled: another scheme's weights, permuted, so that only their distribution is left."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from wmtp.algorithms.base import Batch
from wmtp.algorithms.nested import Control, ControlConfig
from wmtp.weighting import permute_within_rows


class Shuffled(Control["Shuffled.Config"]):
    """The control for every scheme: same weights per sequence and head, on the wrong targets.

    A scheme that beats the baseline but not its own shuffle gains from the distribution of its
    weights, not from where they stand.
    """

    class Config(ControlConfig):
        """Which scheme to shuffle."""

    def move(self, weights: Float[Tensor, "B S H"], batch: Batch) -> Float[Tensor, "B S H"]:
        """Return the weights, permuted among the valid targets of each sequence and head."""
        return permute_within_rows(weights, batch.valid, self.row_seeds(batch))
