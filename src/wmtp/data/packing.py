"""Several documents to a row: which ones share a row, decided for each optimizer step apart.

A step has the documents that the training order gives it, packed or not, so that packing changes the
layout of the computation and nothing that is learned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from wmtp.data.encode import Encoded, EncodedSet


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return rows of indices into `lengths`, none longer than `capacity` in sum.

    Longest first, each where it leaves the least room (Johnson 1974, at most 11/9 of the fewest rows
    and a constant); ties go to the newest
    row. A length above `capacity` is a `ValueError`.
    """
    if max(lengths, default=0) > capacity:
        raise ValueError(f"a document of {max(lengths)} tokens is longer than a row of {capacity}")
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = defaultdict(list)  # rows with so many tokens left, as a stack
    rooms = 0  # bit n is set where some row has n tokens left
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
            rows[row].append(index)
        else:
            room, row = capacity, len(rows)
            rows.append([index])
        by_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return rows


def balanced_rows(lengths: Sequence[int], capacity: int, num_rows: int) -> list[list[int]]:
    """Return exactly `num_rows` rows of indices into `lengths`, the longest as short as is found.

    By bisection of the capacity (MULTIFIT; Coffman, Garey and Johnson 1978) and exchange of documents, so
    that rows are alike and need little padding. Documents that do not fit into the rows, or are fewer,
    are a `ValueError`.
    """
    rows = best_fit_decreasing(lengths, capacity)
    if not len(rows) <= num_rows <= len(lengths):
        raise ValueError(
            f"{len(lengths)} documents fill {len(rows)} rows of {capacity}, not {num_rows}"
        )
    low, high = max(max(lengths), -(-sum(lengths) // num_rows)), capacity
    tried = low  # mostly there already; bisect where not
    while low < high:
        found = best_fit_decreasing(lengths, tried)
        if len(found) <= num_rows:
            rows, high = found, tried
        else:
            low = tried + 1
        tried = (low + high) // 2
    while len(rows) < num_rows:  # one document is longer than the mean row: the others have room
        fullest = max((row for row in rows if len(row) > 1), key=lambda row: _sum(lengths, row))
        rows.append([fullest.pop() for _ in range(len(fullest) // 2)])
    _level(rows, lengths)
    return sorted(rows, key=lambda row: -_sum(lengths, row))


def _level(rows: list[list[int]], lengths: Sequence[int]) -> None:
    """Exchange documents between the longest row and others as long as that makes it shorter.

    Bisection leaves rows of few documents uneven: by 1 % of 512 tokens on MBPP.
    """
    sums = [_sum(lengths, row) for row in rows]
    least = -(-sum(sums) // len(sums))
    for _ in range(8 * len(rows)):  # mostly far fewer; each is a small part of the step's work
        longest = max(range(len(rows)), key=sums.__getitem__)
        if sums[longest] == least:
            return
        ours = np.array([lengths[index] for index in rows[longest]])
        for other in sorted(range(len(rows)), key=sums.__getitem__):
            gap = sums[longest] - sums[other]
            # In exchange for nothing too, where documents are left.
            theirs = np.array([lengths[index] for index in rows[other]] + [0] * (len(ours) > 1))
            moved = ours[:, None] - theirs
            uneven = np.where((moved > 0) & (moved < gap), abs(gap - 2 * moved), gap)
            mine, yours = np.unravel_index(uneven.argmin(), uneven.shape)
            if uneven[mine, yours] < gap:
                break
        else:
            return
        given = rows[longest].pop(mine)
        if yours < len(rows[other]):
            rows[longest].append(rows[other].pop(yours))
        rows[other].append(given)
        sums[longest] -= int(moved[mine, yours])
        sums[other] += int(moved[mine, yours])


def _sum(lengths: Sequence[int], row: list[int]) -> int:
    return sum(lengths[index] for index in row)


class Packing:
    """The documents of every step in rows of at most `capacity` tokens.

    `order` is the training order, `global_batch` samples to a step.
    """

    def __init__(
        self, data: EncodedSet, order: np.ndarray, global_batch: int, capacity: int
    ) -> None:
        self.data = data
        self.steps = order.reshape(-1, global_batch).tolist()
        self.capacity = capacity

    def rows_needed(self) -> int:
        """Return how many rows the step needs that needs most."""
        return max(
            len(best_fit_decreasing(self._lengths(step), self.capacity))
            for step in range(len(self.steps))
        )

    def rows(self, step: int, num_rows: int) -> list[list[int]]:
        """Return the samples of each row of a step, the longest row first."""
        packed = balanced_rows(self._lengths(step), self.capacity, num_rows)
        return [[self.steps[step][index] for index in row] for row in packed]

    def _lengths(self, step: int) -> list[int]:
        return [len(self.data.items[sample]) for sample in self.steps[step]]


class PackedSamples(Dataset[list[tuple[int, Encoded]]]):
    """Rows in training order, `rows_per_step` to a step, each a list of (sample, encoded)."""

    def __init__(self, packing: Packing, rows_per_step: int) -> None:
        self.packing = packing
        self.rows_per_step = rows_per_step
        self._newest: tuple[int, list[list[int]]] = (-1, [])

    @property
    def num_samples(self) -> int:
        """Number of samples over all steps."""
        return sum(map(len, self.packing.steps))

    def samples(self, place: int) -> list[int]:
        """Return the samples of the row at `place`."""
        step, row = divmod(place, self.rows_per_step)
        if self._newest[0] != step:  # the rows of a step are asked for one after the other
            self._newest = (step, self.packing.rows(step, self.rows_per_step))
        return self._newest[1][row]

    def __len__(self) -> int:
        return len(self.packing.steps) * self.rows_per_step

    def __getitem__(self, place: int) -> list[tuple[int, Encoded]]:
        return [(sample, self.packing.data.items[sample]) for sample in self.samples(place)]
