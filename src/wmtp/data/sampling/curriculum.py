"""From easy to hard: which share of the samples is open at which point of the budget."""

from __future__ import annotations

import math

import numpy as np

from wmtp.config.data_sections import CurriculumSection


def competence(curriculum: CurriculumSection | None, progress: float) -> float:
    """Return the share c of samples, easiest first, that are open at `progress` (0 to 1) of the budget.

    With c0 = `start` and q = progress / `end_share`::

        linear   c = min(1, c0 + (1 - c0) q)
        sqrt     c = min(1, sqrt(c0^2 + (1 - c0^2) q))
        step     c = c0 while q < 1, then 1

    linear and sqrt are equations 5 and 7 of Platanios et al. 2019 (arXiv:1903.09848), step is the
    two-stage curriculum of Bengio et al. 2009. Without a curriculum, and for `none`, c = 1.
    """
    if curriculum is None or curriculum.schedule == "none" or progress >= curriculum.end_share:
        return 1.0
    start, q = curriculum.start, progress / curriculum.end_share
    if curriculum.schedule == "linear":
        return start + (1 - start) * q
    if curriculum.schedule == "sqrt":
        return math.sqrt(start**2 + (1 - start**2) * q)
    return start


class GrowingPasses:
    """Deals members in passes; those that open during a pass lie at random among what is left of it.

    So a pass holds every member once, as without a curriculum, and only their order in it changes. When
    all open members have been dealt, a new pass of these begins.

    members: [N] samples or [N, 2] pairs. difficulty [N]: rank decides, equal ones stand at random.
    """

    def __init__(
        self, members: np.ndarray, difficulty: np.ndarray, rng: np.random.Generator
    ) -> None:
        mixed = rng.permutation(len(members))
        self._members = members[mixed[np.argsort(difficulty[mixed], kind="stable")]]
        self._rng = rng
        self._bag = np.empty(len(members), dtype=np.int64)  # ranks left in this pass, in any order
        self._left = 0
        self._open = 0

    def take(self, count: int, competence: float) -> np.ndarray:
        """Return the next `count` members out of the easiest `competence` of all, at least one."""
        now_open = max(1, math.ceil(competence * len(self._members) - 1e-9))
        self._put(np.arange(self._open, now_open))
        self._open = max(self._open, now_open)
        parts = []
        while count > 0:
            if self._left == 0:
                self._put(np.arange(self._open))
            some = min(count, self._left)
            parts.append(self._draw(some))
            count -= some
        return self._members[np.concatenate([np.empty(0, dtype=np.int64), *parts])]

    def _put(self, ranks: np.ndarray) -> None:
        self._bag[self._left : self._left + len(ranks)] = ranks
        self._left += len(ranks)

    def _draw(self, count: int) -> np.ndarray:
        """Take `count` ranks out of the bag and close the holes with its last ones."""
        places = self._rng.choice(self._left, count, replace=False)
        drawn = self._bag[places]
        self._left -= count
        tail = np.setdiff1d(np.arange(self._left, self._left + count), places)
        self._bag[places[places < self._left]] = self._bag[tail]
        return drawn
