"""random-matched: random weights with the mean and spread of another scheme's."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wmtp.algorithms.base import Batch
from wmtp.algorithms.nested import Control, ControlConfig
from wmtp.weighting import row_noise

# The spread is looked for between these powers of two; so many halvings find it to one in 10^7.
_NARROWEST, _WIDEST = -40.0, 20.0
_HALVINGS = 32


def matched_weights(
    weights: Float[Tensor, "B S H"], valid: Bool[Tensor, "B S H"], seeds: list[int]
) -> Float[Tensor, "B S H"]:
    """Return log-normal weights with the mean and variance of `weights` in each sequence and head.

    ::

        w' = mean(w) n softmax_t(s z),    z ~ N(0, 1) from a seed per row,    Var(w') = Var(w)

    over n valid targets. The variance grows with s, from 0 to that of a single weight that is not zero,
    the most that n weights of one mean can have, so there is an s that matches it (found by
    bisection). Both moments are those of the weights as they are used, after clipping, exactly. Their
    shape is not kept, zeros included: that is `shuffled`.
    """
    count = valid.sum(dim=1, keepdim=True).clamp(min=1)
    wide = weights.masked_fill(~valid, 0.0).double()
    mean = wide.sum(dim=1, keepdim=True) / count
    wanted = (wide.square().sum(dim=1, keepdim=True) / count / mean.square()).nan_to_num(1.0)
    noise = torch.special.ndtri(row_noise(weights, seeds).double().clamp(1e-7, 1 - 1e-7))
    noise = noise.masked_fill(~valid, -torch.inf)
    low, high = torch.full_like(wanted, _NARROWEST), torch.full_like(wanted, _WIDEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        squares = (middle.exp2() * noise).softmax(dim=1).square().sum(dim=1, keepdim=True)
        too_narrow = count * squares < wanted
        low, high = torch.where(too_narrow, middle, low), torch.where(too_narrow, high, middle)
    share = (low.exp2() * noise).softmax(dim=1)
    return (mean * count * share).float().masked_fill(~valid, 0.0)


class RandomMatched(Control["RandomMatched.Config"]):
    """The control for the spread of the weights alone: any random weights with these moments.

    Where a scheme beats its `shuffled` and this alike, neither the places of its weights nor their
    shape matters.
    """

    class Config(ControlConfig):
        """Which scheme's moments to match."""

    def move(self, weights: Float[Tensor, "B S H"], batch: Batch) -> Float[Tensor, "B S H"]:
        """Return random weights, drawn anew in each step."""
        return matched_weights(weights, batch.valid, self.row_seeds(batch))
