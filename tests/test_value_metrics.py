"""How held-out values are judged: by hand, by problem, and before against after."""

from __future__ import annotations

import numpy as np
import pytest

from wmtp.evaluation.metrics import auc
from wmtp.evaluation.value_metrics import StateValues, calibration_error


def values_of(reward: list[float], problem: list[int], *rows: list[float]) -> StateValues:
    return StateValues(
        value=np.concatenate([np.array(row, dtype=np.float64) for row in rows]),
        count=np.array([len(row) for row in rows]),
        reward=np.array(reward),
        problem=np.array(problem),
    )


def test_by_hand() -> None:
    found = values_of(
        [1.0, 0.0, 1.0, 0.0],
        [7, 7, 8, 8],
        [0.5, 0.5, 0.6],
        [0.5, 0.4, 0.1],
        [0.2, 0.3],
        [0.25],
    )
    metrics = found.metrics()
    # Last states 0.6 0.1 0.3 0.25; middle ones 0.5 0.4 0.3 0.25.
    assert metrics["auc_last"] == 1.0
    assert metrics["auc_middle"] == 0.75
    assert metrics["auc_last_within_problem"] == metrics["auc_middle_within_problem"] == 1.0
    reward = np.repeat([1.0, 0.0, 1.0, 0.0], [3, 3, 2, 1])
    assert metrics["auc"] == auc(found.value, reward)
    error = 1 - np.var(reward - found.value) / np.var(reward)
    assert metrics["explained_variance"] == pytest.approx(error)
    assert "drift" not in metrics
    assert found.metrics(found.value + 0.1)["drift"] == pytest.approx(0.1)


def test_problems_are_not_compared_within() -> None:
    """Easy problems have high values and correct samples, which says nothing within a problem."""
    metrics = values_of([1.0, 1.0, 0.0, 0.0], [1, 1, 2, 2], [0.9], [0.9], [0.1], [0.1]).metrics()
    assert metrics["auc_last"] == 1.0
    assert "auc_last_within_problem" not in metrics


@pytest.mark.parametrize("reward", [[1.0, 1.0], [0.0, 0.5]])
def test_one_kind_has_no_auc(reward: list[float]) -> None:
    metrics = values_of(reward, [1, 2], [0.4], [0.6]).metrics()
    assert not any(name.startswith("auc") for name in metrics)
    assert ("explained_variance" in metrics) == (reward == [0.0, 0.5])


def test_calibration_error_by_hand() -> None:
    value = np.array([0.31, 0.39, 0.92, 1.0])
    reward = np.array([0.0, 1.0, 1.0, 1.0])
    # The gap of the bin from 0.3 is 0.3, that of the last one 0.08 + 0.
    assert calibration_error(value, reward) == pytest.approx((0.3 + 0.08) / 4)
    assert calibration_error(np.full(10, 0.5), np.arange(10) % 2) == pytest.approx(0.0)


def test_examples_without_a_state_are_left_out() -> None:
    metrics = values_of([1.0, 1.0, 0.0], [1, 1, 1], [0.9], [], [0.1]).metrics()
    assert metrics["auc_last"] == metrics["auc_middle"] == 1.0
    assert values_of([1.0], [1], []).metrics() == {}
    assert values_of([1.0, 0.0], [1, 1], [0.5], [np.nan]).metrics() == {}
