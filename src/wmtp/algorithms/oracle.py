"""oracle: another scheme's weights, the smallest of them on the faults that the data knows."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from wmtp.algorithms.base import Batch
from wmtp.algorithms.nested import Control, ControlConfig
from wmtp.weighting import align_to_heads, reassign


def oracle_weights(
    weights: Float[Tensor, "B S H"],
    valid: Bool[Tensor, "B S H"],
    fault: Bool[Tensor, "B S"],
) -> Float[Tensor, "B S H"]:
    """Return the same weights per sequence and head, the smallest of them on fault tokens.

    `fault` is stored by the token it is about. The other targets keep their order, so that a sequence
    without a fault keeps its weights.
    """
    sound = ~align_to_heads(fault, weights.shape[2])
    return reassign(weights, valid, (weights, sound))


class Oracle(Control["Oracle.Config"]):
    """What a scheme would reach with its distribution of weights, did it know the faults.

    The scheme decides how small the smallest weight is: 0 for a selection, the lower clip for the
    critic. Uniform weights stay uniform.
    """

    class Config(ControlConfig):
        """Which scheme's weights to use."""

    needs = frozenset({"fault"})

    def take(self, inner: Control[Any]) -> None:
        """Take every other control: the truth on top of shuffled weights is the truth alone."""
        if isinstance(inner, Oracle):
            super().take(inner)

    def move(self, weights: Float[Tensor, "B S H"], batch: Batch) -> Float[Tensor, "B S H"]:
        """Return the weights with the smallest on the fault tokens."""
        assert batch.fault is not None
        return oracle_weights(weights, batch.valid, batch.fault)
