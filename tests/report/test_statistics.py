from __future__ import annotations

import math

import numpy as np
import pytest

from wmtp.report.statistics import holm, mean_over_seeds_and_tasks, student_quantile, student_tail


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (30, 2.0423), (999, 1.9623)]
)
def test_student_quantiles_are_those_of_the_tables(degrees: float, expected: float) -> None:
    assert student_quantile(degrees) == pytest.approx(expected, abs=1e-4)
    assert student_tail(expected, degrees) == pytest.approx(0.05, abs=1e-5)


def test_tail_of_zero_is_one_and_both_signs_count() -> None:
    assert student_tail(0.0, 3.7) == 1.0
    assert student_tail(-2.0, 3.7) == student_tail(2.0, 3.7)
    # One degree of freedom is the Cauchy distribution: P(|T| > 1) = 1/2.
    assert student_tail(1.0, 1) == pytest.approx(0.5, abs=1e-6)


def test_one_number_per_seed_gives_the_student_interval() -> None:
    values = np.array([[1.0], [2.0], [6.0]])
    found = mean_over_seeds_and_tasks(values)
    half = 4.302653 * math.sqrt(7.0) / math.sqrt(3)
    assert found.value == 3.0
    assert found.low == pytest.approx(3 - half, abs=1e-4)
    assert found.high == pytest.approx(3 + half, abs=1e-4)
    assert found.n == 3


def test_two_way_interval_matches_the_analysis_of_variance() -> None:
    # Seeds 0, 0, 3 and tasks -1, 1 add up without residual: MS_residual is 0.
    values = np.array([0.0, 0.0, 3.0])[:, None] + np.array([-1.0, 1.0])[None, :]
    found = mean_over_seeds_and_tasks(values)
    seed, task = 3.0 / 3, 2.0 / 2
    degrees = (seed + task) ** 2 / (seed**2 / 2 + task**2 / 1)
    half = student_quantile(degrees) * math.sqrt(seed + task)
    assert found.value == pytest.approx(1.0)
    assert found.low == pytest.approx(1 - half)
    assert found.p_value == pytest.approx(student_tail(1 / math.sqrt(2), degrees), abs=1e-6)


def test_no_variation_is_certain_and_no_difference_is_no_evidence() -> None:
    zero = mean_over_seeds_and_tasks(np.zeros((3, 5)))
    assert (zero.low, zero.high, zero.p_value) == (0.0, 0.0, 1.0)
    one = mean_over_seeds_and_tasks(np.ones((3, 5)))
    assert (one.low, one.high, one.p_value) == (1.0, 1.0, 1.0)  # no variation, no evidence


def test_interval_covers_the_truth_when_seeds_vary_most() -> None:
    """A bootstrap over three seeds covers about 0.83 here; 0.95 is asked for."""
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        seeds, tasks = draw.normal(0, 0.1, (3, 1)), draw.normal(0, 0.1, (1, 60))
        found = mean_over_seeds_and_tasks(seeds + tasks + draw.normal(0, 0.3, (3, 60)))
        covered += found.low <= 0 <= found.high
    assert 0.91 <= covered / 300 <= 0.99


def test_holm_multiplies_by_the_tests_that_are_left_and_never_decreases() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
