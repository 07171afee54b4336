"""Streams of samples, each in passes of its own, and what share of a batch each gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Stream(Protocol):
    """An endless supply of the samples of one pool."""

    def take(self, count: int, competence: float) -> np.ndarray:
        """Return the next `count` members; `competence` is the share of the pool that is open."""


class Passes:
    """Deals `members` ([N] samples or [N, 2] pairs) in fresh permutations, all of them open."""

    def __init__(self, members: np.ndarray, rng: np.random.Generator) -> None:
        self._members = members
        self._rng = rng
        self._left = members[:0]

    def take(self, count: int, competence: float) -> np.ndarray:
        """Return the next `count` members."""
        parts = []
        while count > len(self._left):
            parts.append(self._left)
            count -= len(self._left)
            self._left = self._rng.permutation(self._members)
        taken, self._left = self._left[:count], self._left[count:]
        return np.concatenate([*parts, taken])


class Shares:
    """Cuts batches of `size` into whole counts, so that the totals follow `shares` (they sum to 1).

    Counts are the largest remainders of what is still due, the first of equals: after every batch each
    total is within one of its exact value for two shares, and within two for any number.
    """

    def __init__(self, shares: Sequence[float], size: int) -> None:
        self._shares = shares
        self._size = size
        self._batches = 0
        self._given = [0] * len(shares)

    def next(self) -> list[int]:
        """Return how many of the next batch each share gets."""
        self._batches += 1
        exact = [share * self._size * self._batches for share in self._shares[:-1]]
        exact.append(self._size * self._batches - sum(exact))
        due = [want - given for want, given in zip(exact, self._given, strict=True)]
        counts = [max(0, math.floor(want)) for want in due]
        most_due_first = sorted(range(len(due)), key=lambda j: counts[j] - due[j])
        rest = self._size - sum(counts)
        for j in most_due_first[: max(0, rest)]:
            counts[j] += 1
        while rest < 0:  # others were given more than their due before
            j = next(j for j in reversed(most_due_first) if counts[j])
            counts[j] -= 1
            rest += 1
        self._given = [given + count for given, count in zip(self._given, counts, strict=True)]
        return counts
