"""Pieces of weighting schemes against plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp.weighting import (
    align_to_heads,
    gae,
    normalise_per_sequence,
    permute_within_rows,
    top_fraction,
)


def random_case(seed: int, batch: int = 3, length: int = 9, heads: int = 4):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(batch, length, heads, generator=generator) < 0.7
    weights = torch.rand(batch, length, heads, generator=generator) * valid
    return weights, valid


@pytest.mark.parametrize("heads", [1, 4, 12])
def test_align_to_heads_against_loops(heads: int) -> None:
    signal = torch.randn(2, 7)
    found = align_to_heads(signal, heads)
    for b in range(2):
        for t in range(7):
            for k in range(heads):
                assert found[b, t, k] == (signal[b, t + k + 1] if t + k + 1 < 7 else 0)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_normalised_weights_have_mean_one(seed: int) -> None:
    weights, valid = random_case(seed)
    found = normalise_per_sequence(weights, valid)
    assert not found[~valid].any()
    for b in range(3):
        for k in range(4):
            chosen = valid[b, :, k]
            if chosen.any() and weights[b, chosen, k].sum() > 0:
                assert found[b, chosen, k].mean().item() == pytest.approx(1.0, rel=1e-5)


def test_normalising_all_zeros_stays_zero() -> None:
    zero = torch.zeros(1, 3, 2)
    assert not normalise_per_sequence(zero, torch.ones(1, 3, 2, dtype=torch.bool)).any()


@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.3, 0.6, 1.0]))
@settings(max_examples=40, deadline=None)
def test_top_fraction_against_loops(seed: int, keep: float) -> None:
    score, valid = random_case(seed)
    score = (score * 10).round()  # with ties
    found = top_fraction(score, valid, keep)
    for b in range(3):
        for k in range(4):
            places = [t for t in range(9) if valid[b, t, k]]
            places.sort(key=lambda t: (-score[b, t, k].item(), t))
            number = max(1, round(keep * len(places)))
            want = set(places[:number])
            assert {t for t in range(9) if found[b, t, k]} == want


def gae_by_loops(value, reward, mask, gamma, lam):
    batch, length = value.shape
    out = torch.zeros_like(value)
    for b in range(batch):
        carried = 0.0
        for j in range(length - 1, 0, -1):
            if not mask[b, j]:
                carried = 0.0
                continue
            last = j + 1 == length or not mask[b, j + 1]
            after = reward[b] if last else gamma * value[b, j]
            delta = after - value[b, j - 1]
            carried = delta if last else delta + gamma * lam * carried
            out[b, j] = carried
    return out


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.0), (1.0, 1.0), (0.9, 0.5)])
def test_gae_against_loops(gamma: float, lam: float) -> None:
    torch.manual_seed(0)
    value = torch.rand(4, 10)
    reward = torch.tensor([0.0, 1.0, 0.5, 1.0])
    mask = torch.zeros(4, 10, dtype=torch.bool)
    mask[0, 2:7], mask[1, 5:10], mask[2, 3:4], mask[3, 1:9] = True, True, True, True
    torch.testing.assert_close(
        gae(value, reward, mask, gamma, lam), gae_by_loops(value, reward, mask, gamma, lam)
    )


def test_gae_by_hand() -> None:
    value = torch.tensor([[0.5, 0.6, 0.2, 0.9]])
    mask = torch.tensor([[False, True, True, True]])
    found = gae(value, torch.tensor([1.0]), mask)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.1, -0.4, 0.8]]))


def test_full_gae_is_the_return_minus_the_value() -> None:
    value = torch.rand(1, 6)
    mask = torch.tensor([[False, False, True, True, True, True]])
    found = gae(value, torch.tensor([1.0]), mask, 1.0, 1.0)
    torch.testing.assert_close(found[0, 2:], 1 - value[0, 1:5])


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_permuting_keeps_the_weights_of_each_sequence_and_head(seed: int) -> None:
    weights, valid = random_case(seed)
    found = permute_within_rows(weights, valid, [seed, seed + 1, seed + 2])
    assert not found[~valid].any()
    for b in range(3):
        for k in range(4):
            chosen = valid[b, :, k]
            assert sorted(found[b, chosen, k].tolist()) == sorted(weights[b, chosen, k].tolist())


def test_a_row_is_permuted_alike_in_any_batch() -> None:
    weights, valid = random_case(3)
    together = permute_within_rows(weights, valid, [5, 6, 7])
    alone = permute_within_rows(weights[1:2], valid[1:2], [6])
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together, permute_within_rows(weights, valid, [8, 9, 10]))


def test_what_is_outside_the_mask_never_counts() -> None:
    nan = float("nan")
    valid = torch.tensor([[True, True, False]]).view(1, 3, 1)
    weights = torch.tensor([1.0, 3.0, nan]).view(1, 3, 1)
    assert normalise_per_sequence(weights, valid).flatten().tolist() == [0.5, 1.5, 0.0]
    assert permute_within_rows(weights, valid, [0]).isfinite().all()
    value = torch.tensor([[0.2, 0.4, 0.9, nan]])
    mask = torch.tensor([[True, True, True, False]])
    for lam in (0.0, 0.5):
        found = gae(value, torch.ones(1), mask, lam=lam)
        assert found[0, [0, 3]].tolist() == [0.0, 0.0]
        assert found[0, 2] == pytest.approx(0.6)


def test_a_weight_that_is_no_number_is_not_hidden() -> None:
    weights = torch.tensor([1.0, float("nan")]).view(1, 2, 1)
    assert normalise_per_sequence(weights, torch.ones(1, 2, 1, dtype=torch.bool)).isnan().all()
