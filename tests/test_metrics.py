"""Scores and intervals against definitions, known values and, where there is one, scipy."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.errors import WmtpError
from wmtp.evaluation.metrics import (
    Interval,
    auc,
    clustered_interval,
    paired_difference,
    pass_at_k,
    ratio_interval,
)


@pytest.mark.parametrize(
    ("samples", "correct", "k", "expected"),
    [(1, 1, 1, 1.0), (1, 0, 1, 0.0), (10, 3, 1, 0.3), (5, 2, 2, 0.7), (4, 1, 4, 1.0)],
)
def test_pass_at_k_of_known_cases(samples: int, correct: int, k: int, expected: float) -> None:
    assert pass_at_k(samples, correct, k) == pytest.approx(expected, abs=1e-15)


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample() -> None:
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(combinations([True] * c + [False] * (n - c), k))
                share = sum(map(any, subsets)) / len(subsets)
                assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-14)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.just(n), *[st.integers(0, n)] * 2)))
def test_pass_at_k_is_exact_for_large_counts(case: tuple[int, int, int]) -> None:
    n, c, k = case
    k = max(k, 1)
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize(
    ("samples", "correct", "k"), [(5, 2, 10), (5, 2, 0), (5, 6, 1), (5, -1, 1)]
)
def test_pass_at_k_is_an_error_where_it_is_undefined(samples: int, correct: int, k: int) -> None:
    with pytest.raises(WmtpError):
        pass_at_k(samples, correct, k)


def test_one_sample_per_task_gets_wilson() -> None:
    found = clustered_interval([1.0] * 30 + [0.0] * 70)
    # Wilson score interval of 30 of 100 at 95 %.
    assert found == Interval(
        0.3, pytest.approx(0.21895, abs=1e-5), pytest.approx(0.39585, abs=1e-5), 100
    )


def test_wilson_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for n, c in [(1, 0), (1, 1), (7, 3), (164, 164), (500, 1)]:
        expected = stats.binomtest(c, n).proportion_ci(0.9, method="wilson")
        found = clustered_interval([1.0] * c + [0.0] * (n - c), level=0.9)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("n", [1, 20])
def test_agreeing_tasks_still_have_a_width(value: float, n: int) -> None:
    found = clustered_interval([value] * n)
    assert found.value == value
    assert 0.0 <= found.low <= value <= found.high <= 1.0
    assert found.high - found.low > 1 / (2 * n)
    assert clustered_interval([value] * 10 * n).high - clustered_interval([value] * 10 * n).low < (
        found.high - found.low
    )


def test_agreement_at_the_ends_is_wilson_whatever_the_path() -> None:
    difference = paired_difference([1.0] * 20, [1.0] * 20)
    upper = clustered_interval([0.0] * 20).high
    assert (difference.value, difference.low, difference.high) == (0.0, -upper, upper)


def test_graded_tasks_are_bootstrapped() -> None:
    values = np.linspace(0, 1, 50)
    found = clustered_interval(values)
    error = values.std(ddof=1) / math.sqrt(50)
    assert found.value == pytest.approx(0.5)
    assert found.low == pytest.approx(0.5 - 1.96 * error, abs=0.02)
    assert found.high == pytest.approx(0.5 + 1.96 * error, abs=0.02)
    assert found == clustered_interval(values)
    assert found != clustered_interval(values, seed=1)


def test_pairing_removes_what_tasks_share() -> None:
    generator = np.random.default_rng(0)
    base = generator.random(200)
    better = np.clip(base + 0.05 + 0.01 * generator.standard_normal(200), 0, None)
    paired = paired_difference(better, base)
    assert paired.value == pytest.approx(float((better - base).mean()))
    assert 0.04 < paired.low < paired.high < 0.06
    apart = clustered_interval(better).high - clustered_interval(better).low
    assert paired.high - paired.low < apart / 5
    flipped = paired_difference(base, better)
    assert flipped.value == pytest.approx(-paired.value)


def test_a_ratio_weighs_examples_by_their_denominator() -> None:
    found = ratio_interval([1.0, 9.0], [1, 3], num_resamples=500)
    assert found.value == 2.5
    assert (found.low, found.high, found.n) == (1.0, 3.0, 2)
    assert ratio_interval([1.0, 9.0], [1, 3], 0) == Interval(2.5, 2.5, 2.5, 2)


def test_a_bootstrap_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(0, 1, 50)
    whole = clustered_interval(values)
    monkeypatch.setattr("wmtp.evaluation.metrics._CHUNK", 1000)
    assert clustered_interval(values) == whole


def test_auc_counts_ordered_pairs() -> None:
    assert auc([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == 1.0
    assert auc([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1]) == 0.0
    assert auc([0.5, 0.5, 0.5], [0, 1, 1]) == 0.5
    generator = np.random.default_rng(0)
    scores, labels = generator.integers(0, 9, 60), generator.integers(0, 2, 60)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(WmtpError):
        clustered_interval([])
    with pytest.raises(WmtpError, match="same tasks"):
        paired_difference([1.0], [1.0, 0.0])
    with pytest.raises(WmtpError):
        ratio_interval([0.0], [0.0])
    with pytest.raises(WmtpError):
        auc([1.0, 2.0], [1, 1])
