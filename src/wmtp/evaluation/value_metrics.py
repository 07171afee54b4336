"""How well a critic's values predict the reward, on samples of problems it has not seen.

Legend: E examples; N states that stand before a completion token, example by example.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wmtp.data.sampling.pairs import length_auc
from wmtp.evaluation.metrics import auc

_CALIBRATION_BINS = 10


@dataclass(frozen=True)
class StateValues:
    """V of every state: `value [N]`, `count [E]` states of each example, its `reward` and `problem` [E]."""

    value: np.ndarray
    count: np.ndarray
    reward: np.ndarray
    problem: np.ndarray

    def metrics(self, before: np.ndarray | None = None) -> dict[str, float]:
        """Return what is known of the values; what is not defined is left out: all, if one is no number.

        auc: the chance that V is larger in a state of a correct example (reward 1) than in one of an
        incorrect one; `auc_last` and `auc_middle` compare the last state of each example, and the one
        half-way through its completion; `..._within_problem` only those of one problem, for which the
        prompt alone says nothing. calibration_error: expected |V - R| over ten bins of V of one width
        (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599, equation 3). explained_variance:
        `1 - Var(R - V) / Var(R)` over states. drift: mean |V - before|, `before [N]` the values of the
        same states earlier.
        """
        if not len(self.value) or not np.isfinite(self.value).all():
            return {}
        reward = np.repeat(self.reward, self.count)
        found = {"calibration_error": calibration_error(self.value, reward)}
        if reward.var() > 0:
            found["explained_variance"] = float(1 - (reward - self.value).var() / reward.var())
        if before is not None:
            found["drift"] = float(np.abs(self.value - before).mean())
        there = self.count > 0
        correct, problem = self.reward[there] >= 1.0, self.problem[there]
        if not 0 < correct.sum() < len(correct):
            return found
        found["auc"] = auc(self.value, reward >= 1.0)
        ends = np.cumsum(self.count)[there]
        places = {"last": ends - 1, "middle": ends - self.count[there] + self.count[there] // 2}
        for name, place in places.items():
            found[f"auc_{name}"] = auc(self.value[place], correct)
            within = length_auc(self.value[place], correct, problem)
            if not np.isnan(within):
                found[f"auc_{name}_within_problem"] = within
        return found


def calibration_error(value: np.ndarray, reward: np.ndarray) -> float:
    """Return the expected calibration error of values in [0, 1] against rewards [N]."""
    bins = np.minimum((value * _CALIBRATION_BINS).astype(np.int64), _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, value - reward, minlength=_CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(value))
