"""Scores over tasks and examples, each with an interval that says how far it can be trusted.

The unit of resampling is the task (or example): samples of one task are not independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from wmtp.errors import WmtpError

_CHUNK = 1 << 22  # resampled indices held at a time


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its confidence interval from `low` to `high`; n tasks or examples behind it."""

    value: float
    low: float
    high: float
    n: int


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the unbiased estimate of the chance that one of `k` samples is correct.

    1 - C(n - c, k) / C(n, k), as a product that neither overflows nor cancels: Chen et al. 2021,
    arXiv:2107.03374, equation 1. It is undefined, and a `WmtpError`, when there are fewer samples
    than k.
    """
    if not 1 <= k <= num_samples:
        raise WmtpError(
            f"pass@{k} needs at least {max(k, 1)} samples per task and k of at least 1, found "
            f"{num_samples} samples. Draw more samples or ask for a smaller k."
        )
    if not 0 <= num_correct <= num_samples:
        raise WmtpError(f"{num_correct} correct of {num_samples} samples is impossible.")
    if num_samples - num_correct < k:
        return 1.0
    drawn = np.arange(num_samples - num_correct + 1, num_samples + 1)
    return float(1.0 - np.prod(1.0 - k / drawn))


def clustered_interval(
    values_per_task: ArrayLike, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean over tasks of `values_per_task` [T] with its interval.

    Zeros and ones only (one sample per task): the Wilson score interval (Wilson 1927), which has a
    width even at 0 % and 100 %. All values alike, or a single task: the bootstrap would have no
    width either, so the interval allows for the share of deviating tasks that T agreeing ones do
    not rule out (Wilson's bound), each anywhere in [0, 1]. Otherwise the percentile bootstrap over
    tasks. A constant outside [0, 1] has no such range and gets an interval of no width.
    """
    values = _numbers(values_per_task)
    if np.isin(values, (0.0, 1.0)).all():
        low, high = _wilson(float(values.mean()), len(values), level)
        return Interval(float(values.mean()), low, high, len(values))
    if values.min() == values.max():
        return _agreeing(float(values[0]), len(values), (0.0, 1.0), level)
    return _bootstrap(values, np.ones(len(values)), level, num_resamples, seed)


def paired_difference(
    a_per_task: ArrayLike,
    b_per_task: ArrayLike,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean of a - b [T] over the same tasks, in the same order, with its interval.

    Percentile bootstrap over tasks, which keeps each task's pair together. Where all differences
    are alike, as in `clustered_interval`, with deviating tasks anywhere in [-1, 1].
    """
    a, b = _numbers(a_per_task), _numbers(b_per_task)
    if a.shape != b.shape:
        raise WmtpError(f"a paired difference needs the same tasks, found {len(a)} and {len(b)}.")
    difference = a - b
    if difference.min() == difference.max():
        return _agreeing(float(difference[0]), len(difference), (-1.0, 1.0), level)
    return _bootstrap(difference, np.ones(len(difference)), level, num_resamples, seed)


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> float:
    """Return the two-sided exact p-value of McNemar's test (1947) on two models, one sample per task.

    a, b: whether each task [T] is solved. Only tasks that one of them solves count: under the null
    hypothesis each is as likely the one's as the other's. 1 where there are none.
    """
    ours, theirs = _numbers(a), _numbers(b)
    if ours.shape != theirs.shape:
        raise WmtpError(f"paired tests need the same tasks, found {len(ours)} and {len(theirs)}.")
    if not np.isin([*ours, *theirs], (0.0, 1.0)).all():
        raise WmtpError("McNemar's test is over tasks that are solved (1) or not (0).")
    only_ours, only_theirs = int((ours > theirs).sum()), int((ours < theirs).sum())
    n = only_ours + only_theirs
    tail = sum(math.comb(n, i) for i in range(min(only_ours, only_theirs) + 1))
    return min(1.0, 2 * tail / 2**n)


def ratio_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return sum(numerators) / sum(denominators) over examples [E], bootstrapped over examples.

    For quantities such as a loss per token, where examples weigh by their length. Without resamples
    the interval has no width.
    """
    above, below = _numbers(numerators), _numbers(denominators)
    if len(above) != len(below):
        raise WmtpError(f"{len(above)} numerators and {len(below)} denominators do not pair up.")
    return _bootstrap(above, below, level, num_resamples, seed)


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the chance that a score of the higher label exceeds one of the lower; ties count half.

    The area under the ROC curve, by ranks (Mann and Whitney 1947). There must be two labels.
    """
    scores, labels = _numbers(scores), _numbers(labels)
    if len(np.unique(labels)) != 2:
        raise WmtpError(f"an AUC needs two kinds of labels, found {len(np.unique(labels))}.")
    positive = labels == labels.max()
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    above = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def _numbers(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64).ravel()
    if not len(array):
        raise WmtpError("there is nothing to average: no tasks or examples.")
    if not np.isfinite(array).all():
        odd = int(np.flatnonzero(~np.isfinite(array))[0])
        raise WmtpError(f"value {odd} of {len(array)} is {array[odd]}; only numbers have a mean.")
    return array


def _wilson(share: float, n: int, level: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends rounding must not move the bound off the share itself.
    low = 0.0 if share == 0.0 else max(0.0, float(centre - half))
    high = 1.0 if share == 1.0 else min(1.0, float(centre + half))
    return low, high


def _agreeing(value: float, n: int, bounds: tuple[float, float], level: float) -> Interval:
    least, most = bounds
    if not least <= value <= most:
        return Interval(value, value, value, n)
    deviating = _wilson(0.0, n, level)[1]
    kept = value * (1 - deviating)
    return Interval(value, kept + deviating * least, kept + deviating * most, n)


def _bootstrap(
    numerators: np.ndarray,
    denominators: np.ndarray,
    level: float,
    num_resamples: int,
    seed: int,
) -> Interval:
    n = len(numerators)
    if denominators.sum() == 0:
        raise WmtpError("there is nothing to average: the denominators sum to 0.")
    value = float(numerators.sum() / denominators.sum())
    if num_resamples == 0:
        return Interval(value, value, value, n)
    generator = np.random.default_rng(seed)
    size = max(1, _CHUNK // n)
    ratios = []
    for start in range(0, num_resamples, size):
        drawn = generator.integers(0, n, (min(size, num_resamples - start), n))
        totals = denominators[drawn].sum(axis=1)
        some = totals != 0
        ratios.append(numerators[drawn].sum(axis=1)[some] / totals[some])
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(ratios), (tail, 1 - tail))
    return Interval(value, float(low), float(high), n)
