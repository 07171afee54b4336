"""Losses of a value V(s) in (0, 1) against the reward of the whole completion, per state.

Legend: B batch, S sequence, K folds. A state is the tokens read so far; the states of a completion are
those that stand before one of its tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Keeps logarithms of V finite in float32.
_EDGE = 1e-6
# Factor of the square that holds the level of values learned from pairs.
_CENTRE = 0.01


def states_before(completion: Bool[Tensor, "B S"]) -> Bool[Tensor, "B S"]:
    """Return the states whose next token belongs to the completion."""
    states = torch.zeros_like(completion)
    states[:, :-1] = completion[:, 1:]
    return states


def pointwise_value_loss(
    value: Float[Tensor, "B S *K"],
    reward: Float[Tensor, " B"],
    kind: Literal["mse", "bce"] = "mse",
    anchor: Float[Tensor, "B S *K"] | None = None,
    clip: float | None = None,
) -> Float[Tensor, "B S *K"]:
    """Return the loss of every state against the reward: squared error, or cross entropy in nats.

    With `clip` the larger of the losses of V and of V held within `clip` of `anchor`, so that moving
    further away gains nothing: the value clipping of PPO's implementations (Engstrom et al. 2020,
    arXiv:2005.12729, section 3). There the anchor is V when the data was drawn.
    """
    target = reward.view(-1, *[1] * (value.dim() - 1)).expand_as(value)
    loss = _pointwise(value, target, kind)
    if clip is None:
        return loss
    assert anchor is not None
    near = anchor.detach() + (value - anchor.detach()).clamp(-clip, clip)
    return torch.maximum(loss, _pointwise(near, target, kind))


def _pointwise(value: Tensor, target: Tensor, kind: str) -> Tensor:
    if kind == "mse":
        return (value - target).square()
    return F.binary_cross_entropy(value.clamp(_EDGE, 1 - _EDGE), target, reduction="none")


def pairwise_value_loss(
    value: Float[Tensor, "B S *K"],
    reward: Float[Tensor, " B"],
    completion: Bool[Tensor, "B S"],
    problem: Int[Tensor, " B"],
) -> Float[Tensor, "B S *K"]:
    """Return the Bradley-Terry loss of every state of rows 2m and 2m + 1, two samples of one problem.

    ::

        z = logit V        loss = (-log sigmoid(z_better - z_worse) + 0.01 (z_better + z_worse)^2) / 2

    for the i-th state of each completion against the i-th of the other, or the other's last one; halved,
    for both rows have it. Rows of different problems or equal rewards, and a last row alone, have loss 0.
    Bradley and Terry 1952, as in Christiano et al. 2017 (arXiv:1706.03741, equation 1). Differences leave
    the level of z open, and Adam would move it by rounding errors; the square holds it near 0 (Eisenstein
    et al. 2023, arXiv:2312.09244). V is then no probability: only its order within a problem is learned.
    """
    states = states_before(completion)
    rows = torch.arange(len(value), device=value.device)
    partner = rows ^ 1
    partner = torch.where(partner < len(rows), partner, rows)
    better = (reward - reward[partner]).sign() * (problem == problem[partner])
    first, count = states.int().argmax(dim=1), states.sum(dim=1)
    number = torch.arange(value.shape[1], device=value.device) - first[:, None]
    there = first[partner, None] + number.minimum(count[partner, None] - 1).clamp(min=0)
    there = there.clamp(max=value.shape[1] - 1)
    further = [1] * (value.dim() - 2)  # folds, if any
    logit = value.clamp(_EDGE, 1 - _EDGE).logit()
    theirs = logit[partner].gather(1, there.view(*there.shape, *further).expand_as(logit))
    counts = (states & states[partner].any(dim=1, keepdim=True)) * better[:, None].abs()
    loss = F.softplus(-better.view(-1, 1, *further) * (logit - theirs))
    loss = (loss + _CENTRE * (logit + theirs).square()) / 2
    return loss * counts.view(*counts.shape, *further)
