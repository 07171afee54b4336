"""Which training sample comes when: decided once, before training, from the seed alone.

The order does not depend on the algorithm, the micro-batch or the number of processes, so that runs
under one budget see the same samples in the same order, and a resumed run goes on where it stopped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wmtp.config.data_sections import CurriculumSection
from wmtp.config.recipe import OptimizationSection
from wmtp.data.encode import EncodedSet
from wmtp.data.sampling.curriculum import GrowingPasses, competence
from wmtp.data.sampling.pairs import length_auc, length_pairs
from wmtp.data.sampling.streams import Passes, Shares, Stream
from wmtp.errors import DataError

# What `wmtp data mutate` puts behind the source of a mutant, which is of the same problem still.
_MUTATION = re.compile(r"(^|/)(mutant|equivalent|timeout)/\w+$")


@dataclass(frozen=True)
class Pool:
    """Samples that are drawn alike: `members` [N] or, in pairs, [N, 2], and their share of a batch."""

    name: str
    share: float
    members: np.ndarray


def training_order(
    data: EncodedSet,
    budget: OptimizationSection,
    incorrect_share: float | None,
    seed: int,
    *,
    max_length_ratio: float | None = None,
    curriculum: CurriculumSection | None = None,
    weights: Mapping[str, float] | None = None,
) -> np.ndarray:
    """Return the sample of every place, `[steps * global_batch]`, for the whole budget.

    Samples are drawn from pools, each in passes of its own: all samples, or with `incorrect_share` the
    incorrect and the correct ones. `max_length_ratio` draws them in pairs of one task and like length
    instead (`length_pairs`). `weights` makes these pools for every source apart; they are its shares of
    the samples. Every global batch holds each pool's share (to the nearest whole number over time). With
    a `curriculum` the easiest `competence` of each pool is open. Within a global batch the samples stand
    by length, the two of a pair side by side, so that its micro-batches need little padding; the step's
    loss does not depend on it.
    Data without what is asked for are a `DataError`.
    """
    rng = np.random.default_rng(seed)
    unit = 1
    if max_length_ratio is not None:
        unit, incorrect_share = 2, None  # pairs are half incorrect
        assert budget.global_batch % unit == 0
    pools = _pools(data, incorrect_share, max_length_ratio, weights)
    streams = [_stream(data, pool, curriculum, rng) for pool in pools]
    shares = Shares([pool.share for pool in pools], budget.global_batch // unit)
    is_mixed = incorrect_share is not None or len(pools) > 1

    def batch(progress: float) -> np.ndarray:
        c = competence(curriculum, progress)
        drawn = [s.take(count, c) for s, count in zip(streams, shares.next(), strict=True)]
        return (rng.permutation(np.concatenate(drawn)) if is_mixed else drawn[0]).ravel()

    lengths = np.array([len(item) for item in data.items])
    batches: list[np.ndarray] = []
    if budget.tokens is None:
        epochs = (budget.epochs or 0) * _epoch_size(data, pools, incorrect_share)
        steps = budget.steps or max(1, round(epochs / budget.global_batch))
        batches = [batch(step / steps) for step in range(steps)]
    else:
        seen = 0
        while seen < budget.tokens:
            batches.append(batch(seen / budget.tokens))
            seen += int(lengths[batches[-1]].sum())
    order = np.stack(batches)
    _require_all_drawn(pools, order)
    units = order.reshape(len(order), -1, unit)  # the two of a pair stay side by side
    by_length = np.argsort(lengths[units].max(axis=2), axis=1, kind="stable")
    return np.take_along_axis(units, by_length[:, :, None], axis=1).ravel()


def length_leak(data: EncodedSet, order: np.ndarray) -> tuple[float, float]:
    """Return the `length_auc` of the samples as drawn: over all, and within tasks.

    Lengths are of completions, in tokens. NaN when not both kinds are drawn, or a reward is unknown.
    """
    rewards = [item.example.reward for item in data.items]
    if None in rewards:
        return float("nan"), float("nan")
    wrong, lengths = _is_incorrect(data)[order], _completion_lengths(data)[order]
    return length_auc(lengths, wrong), length_auc(lengths, wrong, _tasks(data)[order])


def unpaired(data: EncodedSet, max_length_ratio: float) -> tuple[int, int, int]:
    """Return how many pairs there are, and how many correct and incorrect samples have no partner."""
    num = len(_pairs(data, max_length_ratio))
    num_wrong = int(_is_incorrect(data).sum())
    return num, len(data) - num_wrong - num, num_wrong - num


def _pools(
    data: EncodedSet,
    incorrect_share: float | None,
    max_length_ratio: float | None,
    weights: Mapping[str, float] | None,
) -> list[Pool]:
    """Return the pools in a fixed order: source by source, incorrect before correct."""
    everything = np.arange(len(data))
    if max_length_ratio is not None:
        everything = _pairs(data, max_length_ratio)
        kinds = [Pool("pairs of correct and incorrect examples", 1.0, everything)]
    elif incorrect_share is None:
        kinds = [Pool("examples", 1.0, everything)]
    else:
        wrong = _is_incorrect(data)
        kinds = [
            Pool("incorrect examples", incorrect_share, everything[wrong]),
            Pool("correct examples", 1 - incorrect_share, everything[~wrong]),
        ]
    pools = kinds
    if weights is not None:
        origin = np.array([item.example.source for item in data.items])
        pools = [
            Pool(f"{kind.name} of {source}", weight * kind.share, _of(kind.members, origin, source))
            for source, weight in weights.items()
            for kind in kinds
        ]
    for pool in pools:
        if pool.share > 0 and not len(pool.members):
            found = ", ".join(f"{len(p.members)} {p.name}" for p in pools)
            fix = "Choose data that have them (incorrect ones can be made by mutation)"
            if max_length_ratio is not None:
                fix = (
                    f"{_tasks_with_both(data)} problems have both kinds; pairs are alike in length, with "
                    f"data.max_length_ratio {max_length_ratio:g}, and balanced. {fix}, raise that ratio"
                )
            raise DataError(
                f"data: there are no {pool.name} to draw {pool.share:.3g} of the samples from; found "
                f"{found}. {fix}, or change data.incorrect_share, pairs or mixture."
            )
    return [pool for pool in pools if pool.share > 0]


def _of(members: np.ndarray, origin: np.ndarray, source: str) -> np.ndarray:
    """Return the members that come from `source`; both of a pair do, or neither."""
    firsts = members if members.ndim == 1 else members[:, 0]
    return members[origin[firsts] == source]


def _stream(
    data: EncodedSet, pool: Pool, curriculum: CurriculumSection | None, rng: np.random.Generator
) -> Stream:
    if curriculum is None or curriculum.schedule == "none":
        return Passes(pool.members, rng)
    known = [item.example.difficulty for item in data.items]
    missing = sum(value is None for value in known)
    if missing:
        raise DataError(
            f"data.curriculum needs a difficulty for every example; {missing} of {len(known)} have none. "
            "Leave out data.curriculum, or give the examples a difficulty."
        )
    difficulty = np.array(known, dtype=np.float64)[pool.members]
    hardest = difficulty if difficulty.ndim == 1 else difficulty.max(axis=1)
    return GrowingPasses(pool.members, hardest, rng)


def _epoch_size(data: EncodedSet, pools: list[Pool], incorrect_share: float | None) -> float:
    """Return the samples of one pass: over all pools, or over the correct ones with their share."""
    if incorrect_share is None:
        return float(sum(pool.members.size for pool in pools))
    return float((~_is_incorrect(data)).sum()) / (1 - incorrect_share)


def _require_all_drawn(pools: list[Pool], order: np.ndarray) -> None:
    """Refuse a share so small that it comes to no sample in the whole budget."""
    drawn = np.unique(order)
    for pool in pools:
        if not np.isin(pool.members, drawn).any():
            raise DataError(
                f"data: {pool.share:.3g} of the {order.size} samples of the budget comes to no "
                f"{pool.name}. Give them a larger share, or leave them out."
            )


def _is_incorrect(data: EncodedSet) -> np.ndarray:
    rewards = [item.example.reward for item in data.items]
    unknown = sum(reward is None for reward in rewards)
    if unknown:
        raise DataError(
            "data.incorrect_share and data.pairs need a reward for every example; "
            f"{unknown} of {len(rewards)} have none. Leave them out, or give the examples a reward."
        )
    return np.array(rewards, dtype=np.float64) < 1.0


def _pairs(data: EncodedSet, max_length_ratio: float) -> np.ndarray:
    wrong, lengths = _is_incorrect(data), _completion_lengths(data)
    return length_pairs(_tasks(data), lengths, wrong, max_length_ratio)


def _tasks_with_both(data: EncodedSet) -> int:
    tasks, wrong = _tasks(data), _is_incorrect(data)
    return len(np.intersect1d(tasks[wrong], tasks[~wrong]))


def _completion_lengths(data: EncodedSet) -> np.ndarray:
    return np.array([np.count_nonzero(item.completion) for item in data.items])


def _tasks(data: EncodedSet) -> np.ndarray:
    """Return a number per sample that is the same for the same problem of the same source."""
    numbers: dict[tuple[str, str], int] = {}
    examples = (item.example for item in data.items)
    keys = ((_MUTATION.sub("", example.source), example.task_id) for example in examples)
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])
