"""Drawing tokens: the right distribution, the right nucleus, and no row that bears on another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wmtp.evaluation.sampling import draw, uniforms


def test_random_numbers_belong_to_a_sample() -> None:
    numbers = uniforms(0, "t/1", 3, 50)
    assert numbers.dtype == np.float32
    assert np.array_equal(numbers[:20], uniforms(0, "t/1", 3, 20))
    for other in (uniforms(1, "t/1", 3, 50), uniforms(0, "t/13", 3, 50), uniforms(0, "t/1", 4, 50)):
        assert not np.array_equal(numbers, other)
    many = np.concatenate([uniforms(0, f"t/{i}", 0, 100) for i in range(100)])
    assert abs(many.mean() - 0.5) < 0.01
    assert 0 <= many.min() < many.max() < 1


def test_zero_temperature_is_the_likeliest() -> None:
    logits = torch.randn(5, 30)
    assert torch.equal(draw(logits, torch.rand(5), 0.0, 0.5), logits.argmax(-1))


@pytest.mark.parametrize("top_p", [1.0, 0.7])
@pytest.mark.parametrize("size", [6, 400])
def test_the_distribution_is_that_of_the_nucleus(size: int, top_p: float) -> None:
    """Evenly spaced random numbers give each token its share, and none outside the nucleus."""
    torch.manual_seed(0)
    logits, temperature, number = torch.randn(size), 0.8, 20_000
    probabilities = torch.softmax(logits.double() / temperature, 0)
    order = probabilities.argsort(descending=True)
    before = probabilities[order].cumsum(0) - probabilities[order]
    kept = order[before < top_p]
    expected = torch.zeros(size, dtype=torch.double)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    spaced = (torch.arange(number) + 0.5) / number
    found = draw(logits.expand(number, -1), spaced, temperature, top_p)
    shares = torch.bincount(found, minlength=size) / number
    assert (shares - expected).abs().max() < 2 / number
    assert set(found.tolist()) <= set(kept.tolist())


def test_a_flat_nucleus_is_found_beyond_the_candidates() -> None:
    logits = torch.zeros(3, 2000)
    logits[1, 7] = 50.0
    found = draw(logits, torch.tensor([0.999999, 0.5, 0.0]), 1.0, 0.95)
    assert found[1] == 7
    alone = [
        draw(logits[i : i + 1], torch.tensor([u]), 1.0, 0.95) for i, u in ((0, 0.999999), (2, 0.0))
    ]
    assert found[0] == alone[0]
    assert found[2] == alone[1]


def test_extreme_numbers_stay_in_range() -> None:
    logits = torch.full((2, 5), -torch.inf)
    logits[:, 1] = logits[:, 3] = 0.0
    almost = float(np.nextafter(np.float32(1), np.float32(0)))
    for top_p in (1.0, 0.95):
        assert draw(logits, torch.tensor([0.0, almost]), 1.0, top_p).sort().values.tolist() == [
            1,
            3,
        ]
