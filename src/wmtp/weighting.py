"""Pure pieces that weighting schemes are made of.

Legend: B batch, S sequence, H heads. A signal is stored by the token it is about, `[B, S]`; a weight
is stored by the position and head that predict a token, `[B, S, H]`. `align_to_heads` is the only
place where one is shifted into the other.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def align_to_heads(signal: Tensor, num_heads: int) -> Tensor:
    """Return `out[b, t, k] = signal[b, t + k + 1]`, shape `[B, S, H]`, 0 past the end.

    `signal` has shape `[B, S]` and any dtype.
    """
    batch, length = signal.shape
    out = signal.new_zeros(batch, length, num_heads)
    for k in range(min(num_heads, length - 1)):
        out[:, : length - k - 1, k] = signal[:, k + 1 :]
    return out


def align_to_tokens(
    weights: Float[Tensor, "B S H"], valid: Bool[Tensor, "B S H"]
) -> Float[Tensor, "B S H"]:
    """Return `out[b, j, k]`, the weight of token j as a target of head k; NaN where it is none.

    The way back from `align_to_heads`: `out[b, j, k] = weights[b, j - k - 1, k]`.
    """
    out = torch.full_like(weights, torch.nan)
    known = weights.masked_fill(~valid, torch.nan)
    for k in range(min(weights.shape[2], weights.shape[1] - 1)):
        out[:, k + 1 :, k] = known[:, : -k - 1, k]
    return out


def normalise_per_sequence(
    weights: Float[Tensor, "B S H"], valid: Bool[Tensor, "B S H"]
) -> Float[Tensor, "B S H"]:
    """Return weights with mean 1 over the valid targets of each sequence and head, 0 elsewhere.

    A sequence and head whose weights are all zero stays all zero; what is not finite at a valid target
    stays so, for the trainer to see.
    """
    weights = weights.masked_fill(~valid, 0.0)
    total = weights.sum(dim=1, keepdim=True)
    count = valid.sum(dim=1, keepdim=True)
    return torch.where(total == 0, 0.0, weights * (count / total.clamp(min=1e-30)))


def top_fraction(
    score: Float[Tensor, "B S H"], valid: Bool[Tensor, "B S H"], keep: float
) -> Bool[Tensor, "B S H"]:
    """Return which valid targets have the largest `keep` share of scores in their sequence and head.

    Of n valid targets `max(1, round(keep * n))` are chosen (none when n is 0); ties go to the earlier
    position, so that the choice is deterministic.
    """
    count = valid.sum(dim=1, keepdim=True)
    chosen = (keep * count).round().long().clamp(min=1)
    order = score.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    places = torch.arange(score.shape[1], device=score.device)[None, :, None].expand_as(order)
    rank.scatter_(1, order, places)
    return (rank < chosen) & valid


def softmax_per_sequence(
    score: Float[Tensor, "B S H"], valid: Bool[Tensor, "B S H"]
) -> Float[Tensor, "B S H"]:
    """Return `n softmax_t(score)` over the n valid targets of each sequence and head, 0 elsewhere.

    It is `exp(score)` with mean 1, and can neither overflow nor vanish. A score that is not finite at a
    valid target makes its sequence and head NaN.
    """
    share = score.masked_fill(~valid, -torch.inf).softmax(dim=1)
    # Not finite: a lone -inf would be a share of 0 in silence.
    share = nan_where_not_finite(share, score, valid)
    return (share * valid.sum(dim=1, keepdim=True)).masked_fill(~valid, 0.0)


def softmax_over_heads(
    score: Float[Tensor, "B S H"], valid: Bool[Tensor, "B S H"]
) -> Float[Tensor, "B S H"]:
    """Return `n softmax_k(score)` over the n valid heads of each position, 0 elsewhere.

    The mean over the valid heads of a position is 1; that over the targets of a head need not be.
    """
    share = score.masked_fill(~valid, -torch.inf).softmax(dim=2)
    return (share * valid.sum(dim=2, keepdim=True)).masked_fill(~valid, 0.0)


def nan_where_not_finite(
    weights: Float[Tensor, "B S H"], signal: Float[Tensor, "B S K"], valid: Bool[Tensor, "B S K"]
) -> Float[Tensor, "B S H"]:
    """Return the weights, NaN in every sequence and head whose valid signal is not finite somewhere.

    Comparisons would turn such a signal into an ordinary weight in silence; the trainer leaves out a step
    with a weight that is no number, and counts it. K is H, or 1 for a signal that decides all heads.
    """
    poison = (signal.masked_fill(~valid, 0.0) * 0.0).sum(dim=1, keepdim=True)
    return weights + poison


def gae(
    value: Float[Tensor, "B S"],
    reward: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    gamma: float = 1.0,
    lam: float = 0.0,
) -> Float[Tensor, "B S"]:
    """Return the advantage of every completion token, 0 elsewhere (Schulman et al. 2016).

    `value[b, j]` is V after reading tokens up to j; `mask` marks completion tokens; `reward` is that
    of the whole completion. For the token at j the state before it is j - 1::

        delta_j = gamma * value[j] - value[j - 1]      inside the completion
        delta_T = reward - value[T - 1]                at its last token
        A_j     = delta_j + gamma * lam * A_{j + 1}    A = 0 past the end

    `lam = 0` is the plain TD error. Position 0 has no state before it and gets 0. ArXiv:1506.02438,
    equations 10 and 16, with the reward at the end alone.
    """
    following = torch.zeros_like(mask)
    following[:, :-1] = mask[:, 1:]
    last = mask & ~following
    before = torch.zeros_like(value)
    before[:, 1:] = value[:, :-1]
    delta = torch.where(last, reward[:, None].to(value.dtype), gamma * value) - before
    mask = mask.clone()
    mask[:, 0] = False
    delta = delta.masked_fill(~mask, 0.0)
    if lam == 0.0:
        return delta
    # The recurrence as a scan in log2(S) steps: after each, A_j has the terms of twice as many tokens,
    # and `carry` is the factor of the next one.
    advantage, carry = delta, (mask & ~last).to(delta.dtype) * (gamma * lam)
    reach = 1
    while reach < delta.shape[1]:
        beyond = torch.zeros_like(delta)
        beyond[:, :-reach] = advantage[:, reach:]
        advantage = advantage + carry * beyond
        further = torch.zeros_like(delta)
        further[:, :-reach] = carry[:, reach:]
        carry = carry * further
        reach *= 2
    return advantage


ValueScale = Literal["probability", "angle", "log_odds"]
# Probabilities below this count as this in log-odds, so that a reward of 0 or 1 has a place there too.
_EDGE = 1e-6


def on_scale(value: Tensor, scale: ValueScale) -> Tensor:
    """Return probabilities in [0, 1], of any shape, on a scale that maps 0, 0.5 and 1 to themselves.

    ::

        angle       2 asin(sqrt(V)) / pi                             variance-stabilising (Fisher 1922)
        log_odds    (1 + log(V' / (1 - V)') / log(1 / 1e-6)) / 2     x' = max(x, 1e-6)

    What counts is the slope relative to that of V, which is 1 / sqrt(V (1 - V)) and 1 / (V (1 - V)) up to a
    factor: how much of a difference near an end is left.
    """
    if scale == "angle":
        return value.sqrt().asin() * (2 / math.pi)
    if scale == "log_odds":
        odds = value.clamp(min=_EDGE) / (1 - value).clamp(min=_EDGE)
        return (1 + odds.log() / -math.log(_EDGE)) / 2
    return value


def value_of_fold(
    value: Float[Tensor, "B S *K"], problem: Int[Tensor, " B"] | None
) -> Float[Tensor, "B S"]:
    """Return, of K values of each state, the one whose fold is that of the row's problem.

    Without the dimension K, `value` itself. The fold of a problem is `problem % K`, the same in every run,
    as `problem` is a stable hash; head f is fitted on the problems of the other folds.
    """
    if value.dim() == 2:
        return value
    assert problem is not None, "values of several folds need to know the problem of each row"
    fold = problem % value.shape[2]
    return value.gather(2, fold[:, None, None].expand(*value.shape[:2], 1)).squeeze(2)


def permute_within_rows(
    weights: Float[Tensor, "B S H"], valid: Bool[Tensor, "B S H"], seeds: list[int]
) -> Float[Tensor, "B S H"]:
    """Return the weights of each sequence and head in random order among its valid targets.

    `seeds` has one entry per row, so that a row is permuted alike in whatever batch it stands.
    """
    noise = row_noise(weights, seeds)
    # Both orders list the valid targets first; the i-th of one takes the weight of the i-th of the
    # other.
    by_position = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
    by_noise = noise.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
    out = torch.zeros_like(weights)
    out.scatter_(1, by_noise, weights.gather(1, by_position))
    return out.masked_fill(~valid, 0.0)


def row_noise(like: Float[Tensor, "B S H"], seeds: list[int]) -> Float[Tensor, "B S H"]:
    """Return uniform numbers in [0, 1) of the shape of `like`, drawn for each row from its own seed.

    The first positions of a row do not depend on its length.
    """
    shape = like.shape[1:]
    rows = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(like.device)


def reassign(
    weights: Float[Tensor, "B S H"],
    valid: Bool[Tensor, "B S H"],
    keys: tuple[Tensor, ...],
) -> Float[Tensor, "B S H"]:
    """Return the weights of each sequence and head on other valid targets: the least to the first.

    keys: tensors `[B,S,H]` that order the targets, ascending, the most important last.
    """
    order = torch.arange(weights.shape[1], device=weights.device)[None, :, None]
    order = order.expand_as(weights)
    for key in (*keys, ~valid):  # the valid ones first
        order = order.gather(1, key.gather(1, order).to(torch.float32).argsort(dim=1, stable=True))
    ascending = weights.masked_fill(~valid, torch.inf).sort(dim=1).values
    out = torch.zeros_like(weights).scatter_(1, order, ascending)
    return out.masked_fill(~valid, 0.0)
