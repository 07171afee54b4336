"""Pure pieces that weighting schemes are made of.

Legend: B batch, S sequence, H heads. A signal is stored by the token it is about, `[B, S]`; a weight
is stored by the position and head that predict a token, `[B, S, H]`. `align_to_heads` is the only
place where one is shifted into the other.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
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
    advantage = torch.zeros_like(delta)
    carried = delta.new_zeros(len(delta))
    for j in range(delta.shape[1] - 1, -1, -1):
        carried = torch.where(last[:, j], delta[:, j], delta[:, j] + gamma * lam * carried)
        carried = carried.masked_fill(~mask[:, j], 0.0)
        advantage[:, j] = carried
    return advantage


def permute_within_rows(
    weights: Float[Tensor, "B S H"], valid: Bool[Tensor, "B S H"], seeds: list[int]
) -> Float[Tensor, "B S H"]:
    """Return the weights of each sequence and head in random order among its valid targets.

    `seeds` has one entry per row, so that a row is permuted alike in whatever batch it stands.
    """
    _, length, num_heads = weights.shape
    noise = torch.stack(
        [
            torch.rand(length, num_heads, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    ).to(weights.device)
    # Both orders list the valid targets first; the i-th of one takes the weight of the i-th of the
    # other.
    by_position = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
    by_noise = noise.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
    out = torch.zeros_like(weights)
    out.scatter_(1, by_noise, weights.gather(1, by_position))
    return out.masked_fill(~valid, 0.0)
