"""Passes and shares."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp.data.sampling.streams import Passes, Shares


@given(st.lists(st.integers(0, 7), min_size=1, max_size=30))
def test_passes_hold_every_member_once(counts: list[int]) -> None:
    members = np.arange(10, 15)
    passes = Passes(members, np.random.default_rng(0))
    drawn = np.concatenate([passes.take(count, 1.0) for count in counts])
    assert len(drawn) == sum(counts)
    for start in range(0, len(drawn) - 4, 5):
        assert sorted(drawn[start : start + 5]) == members.tolist()
    whole = Passes(members, np.random.default_rng(0)).take(sum(counts), 1.0)
    assert drawn.tolist() == whole.tolist()


@given(
    st.lists(st.floats(0.001, 1), min_size=1, max_size=6),
    st.integers(1, 40),
)
@settings(max_examples=60)
def test_totals_follow_the_shares(weights: list[float], size: int) -> None:
    exact = np.array(weights) / sum(weights)
    shares = Shares(exact.tolist(), size)
    given_so_far = np.zeros(len(weights))
    for batch in range(1, 40):
        counts = np.array(shares.next())
        assert (counts >= 0).all()
        assert counts.sum() == size
        given_so_far += counts
        assert np.abs(given_so_far - exact * size * batch).max() < (2 if len(weights) > 2 else 1)


def test_two_shares_are_rounded_to_the_nearest() -> None:
    shares = Shares([0.3, 0.7], 5)
    assert [shares.next() for _ in range(4)] == [[2, 3], [1, 4], [2, 3], [1, 4]]
