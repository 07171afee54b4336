"""Correct and incorrect completions of like length, so that length does not give them away."""

from __future__ import annotations

import numpy as np


def length_pairs(
    tasks: np.ndarray, lengths: np.ndarray, incorrect: np.ndarray, max_ratio: float
) -> np.ndarray:
    """Return pairs [P, 2] of samples (correct, incorrect) of one task, each sample at most once.

    Greedy: of all pairs that are left the one with the smallest difference in length comes next, as long
    as the longer is at most `max_ratio` times the shorter. Equal differences are settled by a fixed draw.
    Then pairs are given up until as many incorrect ones are d tokens longer as are d tokens shorter, for
    every d: else a small difference that always has one sign would still tell them apart.
    tasks [N] numbers, lengths [N] tokens, incorrect [N].
    """
    pairs = _nearest(tasks, lengths, incorrect, max_ratio)
    difference = np.diff(lengths[pairs], axis=1)[:, 0]
    found, which, count = np.unique(difference, return_inverse=True, return_counts=True)
    opposite = np.array([count[found == -d].sum() for d in found], dtype=np.int64)
    order = np.argsort(which, kind="stable")
    place = np.empty_like(order)  # of each pair among those with its difference
    place[order] = np.arange(len(order)) - (np.cumsum(count) - count)[which[order]]
    return pairs[place < opposite[which]]


def _nearest(
    tasks: np.ndarray, lengths: np.ndarray, incorrect: np.ndarray, max_ratio: float
) -> np.ndarray:
    """Return the greedy pairs [P, 2].

    Samples of one task, kind and length are a run. The closest runs of opposite kinds are neighbours by
    length, so all pairs of neighbours that are closer than both of theirs can be made at once.
    """
    rng = np.random.default_rng(0)
    order = np.lexsort((rng.random(len(tasks)), incorrect, lengths, tasks))
    keys = np.stack([tasks[order], lengths[order], incorrect[order]])
    start = np.flatnonzero(np.any(np.diff(keys, prepend=-1), axis=0))
    task, length, kind = keys[:, start]
    count = np.diff(start, append=len(order))
    made: list[np.ndarray] = []
    while True:
        fits = (np.diff(task) == 0) & (np.diff(kind) != 0) & (length[1:] <= max_ratio * length[:-1])
        if not fits.any():
            break
        gap = np.where(fits, np.diff(length) + rng.random(len(fits)), np.inf)
        around = np.concatenate([[np.inf], gap, [np.inf]])
        first = np.flatnonzero(fits & (gap < around[:-2]) & (gap < around[2:]))
        num = np.minimum(count[first], count[first + 1])
        is_wrong = kind[first] == 1
        right, wrong = start[np.where(is_wrong, [first + 1, first], [first, first + 1])]
        within = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num)
        made.append(np.stack([np.repeat(right, num) + within, np.repeat(wrong, num) + within]))
        for run in (first, first + 1):
            start[run] += num
            count[run] -= num
        kept = count > 0
        start, count, task, length, kind = (a[kept] for a in (start, count, task, length, kind))
    return order[np.concatenate([np.empty((2, 0), dtype=np.int64), *made], axis=1).T]


def length_auc(
    lengths: np.ndarray, incorrect: np.ndarray, tasks: np.ndarray | None = None
) -> float:
    """Return the chance that an incorrect sample is longer than a correct one; ties count half.

    The area under the ROC curve of a classifier that knows the length alone (Mann and Whitney 1947): 0.5
    when length says nothing. With `tasks` only samples of one task are compared, which is what a model
    that reads the prompt can do. NaN when there is nothing to compare.
    """
    tasks = np.zeros(len(lengths), dtype=np.int64) if tasks is None else tasks
    order = np.lexsort((lengths, tasks))
    task, length, wrong = tasks[order], lengths[order], incorrect[order].astype(np.int64)
    start = np.flatnonzero((np.diff(task, prepend=-1) != 0) | (np.diff(length, prepend=-1) != 0))
    if not len(start):
        return float("nan")
    num_wrong = np.add.reduceat(wrong, start)
    num_right = np.diff(start, append=len(order)) - num_wrong
    new_task = np.flatnonzero(np.diff(task[start], prepend=-1))
    runs = np.diff(new_task, append=len(start))
    rights, wrongs = (np.add.reduceat(num, new_task) for num in (num_right, num_wrong))
    shorter = np.cumsum(num_right) - num_right - np.repeat(np.cumsum(rights) - rights, runs)
    compared = float((rights * wrongs).sum())
    if not compared:
        return float("nan")
    return float((num_wrong * (shorter + num_right / 2)).sum() / compared)
