"""Which training sample comes when: decided once, before training, from the seed alone.

The order does not depend on the algorithm, the micro-batch or the number of processes, so that runs
under one budget see the same samples in the same order, and a resumed run goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from wmtp.config.recipe import OptimizationSection
from wmtp.data.encode import EncodedSet
from wmtp.errors import DataError


def training_order(
    data: EncodedSet, budget: OptimizationSection, incorrect_share: float | None, seed: int
) -> np.ndarray:
    """Return the sample of every place, `[steps * global_batch]`, for the whole budget.

    Without `incorrect_share` each pass is a fresh permutation of all samples. With it, every global
    batch holds that share of incorrect samples (to the nearest whole number over time), each kind in
    fresh permutations of its own. Within a global batch the samples stand by length, so that its
    micro-batches need little padding; the step's loss does not depend on their order.
    """
    lengths = np.array([len(item) for item in data.items])
    drawn = _batches(data, budget.global_batch, incorrect_share, seed)
    batches = (batch[np.argsort(lengths[batch], kind="stable")] for batch in drawn)
    if budget.steps is not None:
        steps = budget.steps
    elif budget.epochs is not None:
        steps = max(
            1, round(budget.epochs * _epoch_size(data, incorrect_share) / budget.global_batch)
        )
    else:
        assert budget.tokens is not None
        return _until_tokens(lengths, batches, budget.tokens)
    return np.concatenate([next(batches) for _ in range(steps)])


def _until_tokens(lengths: np.ndarray, batches: Iterator[np.ndarray], tokens: int) -> np.ndarray:
    """Take batches until they hold `tokens` tokens."""
    taken: list[np.ndarray] = []
    seen = 0
    while seen < tokens:
        taken.append(next(batches))
        seen += int(lengths[taken[-1]].sum())
    return np.concatenate(taken)


def _is_incorrect(data: EncodedSet) -> np.ndarray:
    rewards = [item.example.reward for item in data.items]
    unknown = sum(reward is None for reward in rewards)
    if unknown:
        raise DataError(
            f"data.incorrect_share needs a reward for every example; {unknown} of {len(rewards)} have "
            "none. Leave out data.incorrect_share, or give the examples a reward."
        )
    return np.array([reward is not None and reward < 1.0 for reward in rewards])


def _epoch_size(data: EncodedSet, incorrect_share: float | None) -> float:
    """Return the number of samples in one pass: over all, or over the correct ones with their share."""
    if incorrect_share is None:
        return len(data)
    return float((~_is_incorrect(data)).sum()) / (1 - incorrect_share)


def _permutations(members: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(members).tolist()


def _batches(
    data: EncodedSet, size: int, incorrect_share: float | None, seed: int
) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    if incorrect_share is None:
        everything = _permutations(np.arange(len(data)), rng)
        while True:
            yield np.array([next(everything) for _ in range(size)])
    incorrect = _is_incorrect(data)
    right, wrong = np.flatnonzero(~incorrect), np.flatnonzero(incorrect)
    if len(right) == 0 or (incorrect_share > 0 and len(wrong) == 0):
        raise DataError(
            f"data.incorrect_share {incorrect_share} needs correct and incorrect examples; found "
            f"{len(right)} correct and {len(wrong)} incorrect. Make incorrect ones by mutation, or set "
            "data.incorrect_share to 0."
        )
    right_stream, wrong_stream = _permutations(right, rng), _permutations(wrong, rng)
    for step in range(2**62):
        # Rounding the running total keeps the share exact over time.
        before, after = (math.floor(incorrect_share * size * n + 0.5) for n in (step, step + 1))
        chosen = [next(wrong_stream) for _ in range(after - before)]
        chosen += [next(right_stream) for _ in range(size - len(chosen))]
        yield rng.permutation(np.array(chosen))
