"""Schemes of the field, by hand: token probability, focal, high entropy, gradient importance."""

from __future__ import annotations

import math

import pytest
import torch

from tests.algorithms.test_algorithms import B, H, asked, batch, scheme
from wmtp.algorithms.focal import focal_weights
from wmtp.algorithms.gradient_importance import importance_weights, relative_importance
from wmtp.algorithms.high_entropy import high_entropy_weights
from wmtp.algorithms.token_probability import token_probability_weights

VALID = torch.tensor([[[True], [True], [False], [True]]])
CE = -torch.tensor([[[0.5], [0.25], [1.0], [0.75]]]).log()


def test_token_probability_by_hand() -> None:
    found = token_probability_weights(CE, VALID)
    assert found.flatten().tolist() == pytest.approx([1.0, 0.5, 0.0, 1.5])
    square = torch.tensor([0.25, 0.0625, 0.0, 0.5625])
    found = token_probability_weights(CE, VALID, power=2.0).flatten()
    torch.testing.assert_close(found, square / square.sum() * 3)


def test_focal_by_hand() -> None:
    want = torch.tensor([0.25, 0.5625, 0.0, 0.0625])
    torch.testing.assert_close(focal_weights(CE, VALID).flatten(), want / want.sum() * 3)


@pytest.mark.parametrize("ce", [0.0, 1e-9, 500.0])
@pytest.mark.parametrize("weigh", [token_probability_weights, focal_weights])
def test_certain_and_hopeless_targets_that_are_alike_weigh_alike(weigh, ce: float) -> None:
    found = weigh(torch.full((1, 4, 1), ce), VALID)
    torch.testing.assert_close(found, VALID.float())


def test_high_entropy_keeps_the_most_uncertain_fifth() -> None:
    entropy = torch.arange(10.0)[None, :, None].expand(1, 10, 2).clone()
    valid = torch.ones(1, 10, 2, dtype=torch.bool)
    valid[0, 9, 1] = False
    found = high_entropy_weights(entropy, valid, keep=0.2)
    assert found[0, :, 0].tolist() == [0.0] * 8 + [5.0, 5.0]
    assert found[0, :, 1].tolist() == [0.0] * 7 + [4.5, 4.5, 0.0]


def test_importance_by_hand() -> None:
    importance = torch.tensor([[9.0, 1.0, 3.0, 0.0, 7.0]])
    completion = torch.tensor([[False, True, True, True, False]])
    relative = relative_importance(importance, completion)
    assert relative[0].tolist() == pytest.approx([0.0, 0.75, 2.25, 0.0, 0.0])
    valid = torch.tensor([[[True, True], [True, True], [True, False], [False, False]]])
    valid = torch.nn.functional.pad(valid, (0, 0, 0, 1))
    found = importance_weights(relative, valid, power=1.0, clip=(0.3, 2.0))
    assert found[0, :3, 0].tolist() == pytest.approx([0.75 / 3.05 * 3, 6 / 3.05, 0.9 / 3.05])
    assert found[0, :2, 1].tolist() == pytest.approx([2 / 1.15, 0.3 / 1.15])
    none = relative_importance(torch.zeros(1, 5), completion)
    assert none[0].tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_steps_between_measurements_use_the_means_of_token_types() -> None:
    algorithm = scheme("gradient-importance", {"every_n_steps": 4, "running_decay": 0.5})
    first = batch(seed=3, step=1)
    before = algorithm.weigh(asked(algorithm, first)).weights
    assert torch.equal(before, first.valid.float())  # nothing is known yet
    totals, counts = [0.0] * 7, [0.0] * 7
    for step in (0, 4):
        given = batch(seed=step, step=step)
        answer = algorithm.weigh(asked(algorithm, given))
        relative = relative_importance(given.importance, given.completion)
        ids = given.token_ids[given.completion].tolist()
        for kind in set(ids):
            totals[kind] *= 0.5
            counts[kind] *= 0.5
        for kind, value in zip(ids, relative[given.completion].tolist(), strict=True):
            totals[kind] += value
            counts[kind] += 1
        assert algorithm.end_step(answer.sums) == {"importance/types_measured": len(set(ids))}
    means = torch.tensor([t / n if n else 1.0 for t, n in zip(totals, counts, strict=True)])
    given = batch(seed=9, step=5)
    answer = algorithm.weigh(asked(algorithm, given))
    torch.testing.assert_close(
        answer.weights, importance_weights(means[given.token_ids], given.valid)
    )
    assert not answer.sums
    assert answer.weights.shape == (B, given.valid.shape[1], H)
    assert math.isclose(answer.weights[given.valid].mean().item(), 1.0, rel_tol=1e-5)


def test_a_type_that_is_not_there_keeps_what_is_known_of_it() -> None:
    algorithm = scheme("gradient-importance", {"running_decay": 0.5})
    count = torch.tensor([2.0, 4.0])
    algorithm.end_step({"total": torch.tensor([6.0, 4.0]), "count": count})
    algorithm.end_step({"total": torch.tensor([0.0, 1.0]), "count": torch.tensor([0.0, 1.0])})
    assert algorithm.state == {"total": [6.0, 3.0], "count": [2.0, 3.0]}
