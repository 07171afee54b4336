"""What is known of a critic's step from sums alone, so that it does not depend on micro-batches."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# TD errors of values in [0, 1] lie in [-1, 1], most of them near 0: bins are even in the signed cube
# root, so that one at d is about 0.015 |d|^(2/3) wide.
_BINS = 400
_QUANTILES = (5, 25, 50, 75, 95)


def value_sums(
    value: Float[Tensor, "B S"], reward: Float[Tensor, " B"], states: Bool[Tensor, "B S"]
) -> dict[str, Tensor]:
    """Return the sums over states that explained variance and mean squared error are made of."""
    target = reward[:, None] * states
    error = target - value * states
    return {
        "states": states.sum(),
        "reward": target.sum(),
        "reward_squared": target.square().sum(),
        "error": error.sum(),
        "error_squared": error.square().sum(),
    }


def value_metrics(sums: dict[str, Tensor]) -> dict[str, float]:
    """Return `value/mse`, and `value/explained_variance` where the reward varies.

    The explained variance is `1 - Var(R - V) / Var(R)` over the states of the step.
    """
    count = sums["states"].clamp(min=1)
    reward = sums["reward_squared"] / count - (sums["reward"] / count).square()
    error = sums["error_squared"] / count - (sums["error"] / count).square()
    metrics = {"value/mse": float(sums["error_squared"] / count)}
    if reward > 1e-8:
        metrics["value/explained_variance"] = float(1 - error / reward)
    return metrics


def histogram(errors: Float[Tensor, "B S"], counted: Bool[Tensor, "B S"]) -> Float[Tensor, " N"]:
    """Return how many counted errors fall into each of the bins of `quantiles`."""
    root = errors.sign() * errors.abs().pow(1 / 3)
    bins = ((root + 1) / 2 * _BINS).nan_to_num(0.0).long().clamp(0, _BINS - 1)
    counts = errors.new_zeros(_BINS, dtype=torch.float32)
    return counts.scatter_add_(0, bins.flatten(), counted.flatten().float())


def quantile_metrics(counts: Float[Tensor, " N"]) -> dict[str, float]:
    """Return `value/td_error/quantile_NN` for 5, 25, 50, 75 and 95 %, linear within a bin."""
    total = counts.sum()
    if total == 0:
        return {}
    below = counts.cumsum(0)
    found = {}
    for percent in _QUANTILES:
        wanted = percent / 100 * total
        index = int((below < wanted).sum())
        part = float((wanted - (below[index] - counts[index])) / counts[index])
        root = 2 * (index + part) / _BINS - 1
        found[f"value/td_error/quantile_{percent:02d}"] = abs(root) ** 3 * (1 if root > 0 else -1)
    return found
