"""critic-wmtp: value losses, folds, whitening, statistics, and what bad input does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.algorithms.test_algorithms import S, batch
from wmtp.algorithms.base import Batch
from wmtp.algorithms.critic import Critic, critic_weights
from wmtp.algorithms.critic_statistics import histogram, quantile_metrics
from wmtp.data.example import Example
from wmtp.errors import DataError
from wmtp.losses.value import pairwise_value_loss, pointwise_value_loss, states_before
from wmtp.weighting import gae, value_of_fold

PROBLEM = torch.tensor([6, 6, 9, 9])


def critic(**settings: Any) -> Critic:
    return Critic(Critic.Config(**settings), seed=1)


def cut(whole: Batch, rows: list[int]) -> Batch:
    """Return some rows of a batch."""
    fields = {}
    for name in whole.__dataclass_fields__:
        value = getattr(whole, name)
        fields[name] = value[rows] if isinstance(value, torch.Tensor) else value
    return replace(Batch(**fields), sample_ids=[whole.sample_ids[i] for i in rows])


def with_steps(algorithm: Critic, given_batch: Batch, steps: int) -> Critic:
    for _ in range(steps):
        algorithm.end_step(algorithm.weigh(given_batch).sums)
    return algorithm


def test_pairwise_loss_against_loops() -> None:
    value = batch().value.double().requires_grad_()
    found = pairwise_value_loss(value, batch().reward, batch().completion, PROBLEM)
    states = states_before(batch().completion)
    for b in range(4):
        mine = states[b].nonzero()[:, 0].tolist()
        theirs = states[b ^ 1].nonzero()[:, 0].tolist()
        sign = 1 if batch().reward[b] > batch().reward[b ^ 1] else -1
        for i, t in enumerate(mine):
            other = value[b ^ 1, theirs[min(i, len(theirs) - 1)]]
            own, other = torch.logit(value[b, t].detach()), torch.logit(other.detach())
            won = math.log(torch.sigmoid(sign * (own - other)))
            want = (-won + 0.01 * (own + other) ** 2) / 2
            assert found[b, t].item() == pytest.approx(want.item())
        assert not found[b][~states[b]].any()
    found.sum().backward()
    assert (value.grad[states] != 0).any()


def test_pairwise_loss_of_rows_that_are_no_pair_is_zero() -> None:
    value, reward, completion = batch().value, batch().reward, batch().completion
    alone = pairwise_value_loss(value[:1], reward[:1], completion[:1], PROBLEM[:1])
    assert not alone.any()
    strangers = pairwise_value_loss(value, reward, completion, torch.arange(4))
    assert not strangers.any()
    equals = pairwise_value_loss(value, torch.full((4,), 0.5), completion, PROBLEM)
    assert not equals.any()


def test_states_that_a_pair_shares_say_nothing_of_the_winner() -> None:
    value = torch.full((2, 6), 0.5, requires_grad=True)
    completion = torch.tensor([[False, False, True, True, True, True]] * 2)
    pair = torch.tensor([1.0, 0.0]), completion, torch.tensor([5, 5])
    loss = pairwise_value_loss(torch.stack([value[0], value[0]]), *pair)
    loss.sum().backward()
    assert not value.grad.any()
    assert loss.sum().item() == pytest.approx(4 * math.log(2))


@pytest.mark.parametrize("loss", ["mse", "bce", "pairwise"])
@pytest.mark.parametrize("folds", [1, 3])
def test_a_step_is_the_same_however_it_is_cut(loss: str, folds: int) -> None:
    """Sums and losses of whole pairs add up to those of the batch; of single rows for other losses."""
    algorithm = critic(value_loss=loss, cross_fit=folds, whiten_terminal="apart", gae_lambda=0.5)
    whole = replace(batch(), problem=PROBLEM)
    if folds > 1:
        shape = (*whole.value.shape, folds)
        whole = replace(whole, value=torch.rand(shape, generator=torch.Generator().manual_seed(2)))
    with_steps(algorithm, whole, 3)
    together = algorithm.weigh(whole)
    parts = [[0, 1], [2, 3]] if loss == "pairwise" else [[0], [1, 2], [3]]
    apart = [algorithm.weigh(cut(whole, rows)) for rows in parts]
    assert torch.equal(torch.cat([part.weights for part in apart]), together.weights)
    torch.testing.assert_close(torch.cat([part.auxiliary for part in apart]), together.auxiliary)
    for name, value in together.sums.items():
        total = torch.stack([part.sums[name] for part in apart]).sum(dim=0)
        torch.testing.assert_close(total, value)
    metrics = algorithm.end_step(together.sums)
    assert {"value/mse", "value/explained_variance", "weight/share_at_clip_max"} <= set(metrics)


def test_clipped_value_loss_by_hand() -> None:
    value = torch.tensor([[0.9, 0.5, 0.45, 0.1]], requires_grad=True)
    anchor = torch.full((1, 4), 0.4)
    loss = pointwise_value_loss(value, torch.tensor([1.0]), "mse", anchor, clip=0.2)
    # Past the range towards the reward: the loss of the edge, and no gradient. Else as without.
    torch.testing.assert_close(loss, torch.tensor([[0.16, 0.25, 0.3025, 0.81]]))
    loss.sum().backward()
    assert value.grad[0].ne(0).tolist() == [False, True, True, True]
    algorithm = critic(value_clip=0.2, value_coef=1.0)
    in_policy = replace(batch(step=9), value_anchor=batch(seed=3).value)
    later = algorithm.weigh(in_policy).auxiliary
    first = algorithm.weigh(replace(in_policy, step=0)).auxiliary
    assert (later >= first).all()
    assert (later > first).any()


def test_a_fold_is_never_fitted_on_its_problems() -> None:
    """No gradient reaches the head that a sample's value comes from."""
    algorithm = critic(cross_fit=3)
    value = torch.rand(4, S, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    folded = replace(batch(step=0), value=value, problem=torch.tensor([6, 7, 8, 9]))
    found = algorithm.weigh(folded)
    found.auxiliary.sum().backward()
    states = states_before(batch().completion)
    for row, fold in enumerate([0, 1, 2, 0]):
        reached = value.grad[row][states[row]].ne(0).any(dim=0)
        assert reached.tolist() == [f != fold for f in range(3)]
        assert torch.equal(value_of_fold(value, folded.problem)[row], value[row, :, fold])
    others = [1, 2]  # of the first row: the mean over the heads that are fitted to it
    want = (value[0, :, others] - folded.reward[0]).square().mean(dim=1) * states[0]
    torch.testing.assert_close(found.auxiliary[0], want)
    # What is logged of V is of the head that did not see the sample.
    unseen = value_of_fold(value.detach(), folded.problem)[states]
    error = (folded.reward[:, None] - unseen.new_zeros(states.shape))[states] - unseen
    assert found.sums["error_squared"].item() == pytest.approx(
        error.square().sum().item(), rel=1e-5
    )


@pytest.mark.parametrize("terminal", ["together", "apart", "left_out"])
def test_whitening_of_the_terminal_error(terminal: str) -> None:
    """Inside the completion TD errors are +-0.01; R - V at its end is +-0.5."""
    inner = torch.tensor([0.5, 0.51, 0.5, 0.51, 0.5])
    value = torch.stack([inner, inner])
    completion = torch.tensor([[False, True, True, True, True]] * 2)
    valid = states_before(completion)[:, :, None]
    given_batch = Batch(
        None, valid, completion, [0, 1], 9, 10, value, reward=torch.tensor([0.0, 1.0])
    )
    algorithm = critic(whiten_terminal=terminal, value_phase={"share": 0.0})
    weights = with_steps(algorithm, given_batch, 3).weigh(given_batch).weights[:, :, 0]
    up, down, end_of_wrong, end_of_right = (
        weights[0, 0],
        weights[0, 1],
        weights[0, 3],
        weights[1, 3],
    )
    std = algorithm.advantage_moments.std().tolist()
    assert end_of_right > end_of_wrong
    if terminal == "together":
        assert up / down < 1.1
        assert std[0] == std[1] > 0.2
    else:
        assert up / down > 5
        assert std[0] == pytest.approx(0.01, rel=0.1)
        assert (std[1] == std[0]) == (terminal == "left_out")
    assert weights[valid[:, :, 0]].mean().item() == pytest.approx(1.0, abs=1e-4)


def scaled(value: float, scale: str) -> float:
    """Return a value on a scale, in float64, as the docs define it."""
    if scale == "angle":
        return 2 * math.asin(math.sqrt(value)) / math.pi
    if scale == "log_odds":
        return (1 + math.log(max(value, 1e-6) / max(1 - value, 1e-6)) / math.log(1e6)) / 2
    return value


@pytest.mark.parametrize("scale", ["probability", "angle", "log_odds"])
@pytest.mark.parametrize("lam", [0.0, 0.7])
def test_td_errors_are_differences_on_the_scale(scale: str, lam: float) -> None:
    whole = batch()
    extreme = torch.tensor([0.0, 1.0, 1e-9, 1 - 1e-7, 1e-4, 0.5, 0.999, 0.2]).repeat(2)[:S]
    whole = replace(whole, value=torch.stack([*whole.value[:2], extreme, extreme.flip(0)]))
    algorithm = critic(td_scale=scale, gae_lambda=lam)
    found = algorithm._advantage(whole, lam)
    last_states = algorithm.signals(whole)["advantage"]
    for b in range(4):
        carried = untold = 0.0
        places = whole.completion[b].nonzero()[:, 0].tolist()
        for j in reversed(places):
            before, after = (scaled(whole.value[b, i].item(), scale) for i in (j - 1, j))
            reward = scaled(whole.reward[b].item(), scale)
            ends = j == places[-1]
            carried = (reward if ends else after) - before + (0 if ends else lam * carried)
            untold = after - before + (0 if ends else lam * untold)
            assert found[b, j].item() == pytest.approx(carried, abs=1e-5)
            assert last_states[b, j - 1, 0].item() == pytest.approx(untold, abs=1e-5)
    assert found.abs().max() <= 1 or lam
    with_steps(algorithm, whole, 3)
    assert algorithm.weigh(whole).weights.isfinite().all()


def test_a_discount_needs_probabilities() -> None:
    for scale in ("angle", "log_odds"):
        with pytest.raises(ValidationError, match="discounts probabilities of success"):
            critic(td_scale=scale, gamma=0.9)
    critic(gamma=0.9)


@pytest.mark.parametrize("scale", ["probability", "angle", "log_odds"])
@pytest.mark.parametrize("terminal", ["together", "apart", "left_out"])
def test_a_constant_critic_gives_uniform_weights_inside(terminal: str, scale: str) -> None:
    whole = replace(batch(), value=torch.full((4, S), 0.25))
    settings = {"whiten_terminal": terminal, "td_scale": scale}
    algorithm = with_steps(critic(**settings, beta=0.5), whole, 4)
    weights = algorithm.weigh(whole).weights[..., 0]
    inside = states_before(whole.completion & states_before(whole.completion))
    assert weights[inside].max() - weights[inside].min() < 1e-6
    right = replace(whole, reward=torch.full((4,), 0.25))
    algorithm = with_steps(critic(**settings), right, 4)
    torch.testing.assert_close(algorithm.weigh(right).weights, right.valid.float())


def test_gae_scan_equals_the_recurrence() -> None:
    generator = torch.Generator().manual_seed(3)
    value = torch.rand(3, 21, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 21, generator=generator) < 0.8  # with gaps: each run ends in the reward
    reward = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    found = gae(value, reward, mask, gamma=0.9, lam=0.7)
    for b in range(3):
        carried = 0.0
        for j in range(20, 0, -1):
            last = j == 20 or not mask[b, j + 1]
            after = reward[b] if last else 0.9 * value[b, j]
            carried = (after - value[b, j - 1] + (0 if last else 0.63 * carried)) * mask[b, j]
            assert found[b, j].item() == pytest.approx(float(carried), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60))
def test_quantiles_are_those_of_the_errors(errors: list[float]) -> None:
    values = torch.tensor([errors])
    everything = torch.ones_like(values, dtype=torch.bool)
    found = quantile_metrics(histogram(values, everything))
    for percent in (5, 25, 50, 75, 95):
        exact = np.quantile(np.array(errors), percent / 100, method="inverted_cdf")
        near = found[f"value/td_error/quantile_{percent:02d}"]
        # Both are in one bin, which is even in the cube root.
        assert abs(np.cbrt(near) - np.cbrt(exact)) <= 2 / 400 + 1e-6
    assert quantile_metrics(histogram(values, ~everything)) == {}


def test_shares_at_the_clips() -> None:
    sharp = with_steps(critic(beta=1e-6, whiten=False), batch(), 2)
    metrics = sharp.end_step(sharp.weigh(batch()).sums)
    low, high = metrics["weight/share_at_clip_min"], metrics["weight/share_at_clip_max"]
    assert low + high == pytest.approx(1.0)
    assert low > 0.2
    soft = critic(beta=1e6)
    metrics = soft.end_step(soft.weigh(batch()).sums)
    assert metrics["weight/share_at_clip_min"] == metrics["weight/share_at_clip_max"] == 0.0


def test_the_limit_of_beta_is_a_threshold() -> None:
    advantage = torch.tensor([[0.0, 1e-3, -1e-3, 0.0]])
    valid = torch.ones(1, 4, 1, dtype=torch.bool)
    for beta in (1e-30, 1e-300):
        found = critic_weights(advantage, valid, beta)[0, :, 0]
        assert found.tolist() == pytest.approx([5.0, 0.1, 1.0, 0.0])


def test_explained_variance_and_error_by_hand() -> None:
    whole = replace(batch(), reward=torch.tensor([0.0, 1.0, 0.5, 1.0]))
    algorithm = critic()
    metrics = algorithm.end_step(algorithm.weigh(whole).sums)
    states = states_before(whole.completion)
    reward = whole.reward[:, None].expand_as(states)[states]
    error = reward - whole.value[states]
    want = 1 - error.var(correction=0) / reward.var(correction=0)
    assert metrics["value/explained_variance"] == pytest.approx(want.item(), rel=1e-4)
    assert metrics["value/mse"] == pytest.approx(error.square().mean().item(), rel=1e-4)


def test_weights_are_uniform_until_the_warm_up_is_over() -> None:
    algorithm = critic(warmup_steps=4)
    for _ in range(4):
        answer = algorithm.weigh(batch())
        assert torch.equal(answer.weights, batch().valid.float())
        algorithm.end_step(answer.sums)
    assert not torch.equal(algorithm.weigh(batch()).weights, batch().valid.float())


def test_a_constant_reward_says_nothing_about_the_variance() -> None:
    same = replace(batch(), reward=torch.ones(4))
    algorithm = critic()
    metrics = algorithm.end_step(algorithm.weigh(same).sums)
    assert "value/explained_variance" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())
    weights = with_steps(algorithm, same, 3).weigh(same).weights
    assert torch.isfinite(weights).all()


def test_one_target_and_more_heads_than_tokens() -> None:
    for heads, length in ((1, 2), (5, 3)):
        completion = torch.zeros(1, length, dtype=torch.bool)
        completion[0, -1] = True
        valid = torch.zeros(1, length, heads, dtype=torch.bool)
        for k in range(min(heads, length - 1)):
            valid[0, length - 2 - k, k] = True
        short = Batch(
            None, valid, completion, [0], 9, 10, torch.full((1, length), 0.4), reward=torch.ones(1)
        )
        algorithm = with_steps(critic(), short, 3)
        weights = algorithm.weigh(short).weights
        torch.testing.assert_close(weights, valid.float())
        assert algorithm.weigh(short).auxiliary.sum().item() == pytest.approx(0.5 * 0.36)


def test_no_number_in_the_values_stays_visible() -> None:
    """Nothing stands in for it: the loss is not finite, so that the trainer leaves the step out."""
    value = batch().value.clone()
    value[1, 5] = math.nan
    broken = replace(batch(step=0), value=value)
    found = critic().weigh(broken)
    assert not torch.isfinite(found.auxiliary.sum())
    pairs = critic(value_loss="pairwise").weigh(replace(broken, problem=PROBLEM))
    assert not torch.isfinite(pairs.auxiliary.sum())


def test_rewards_outside_their_range_do_not_become_examples() -> None:
    for reward in (-0.1, 1.1, math.nan):
        with pytest.raises(DataError, match="outside 0 to 1"):
            Example("t", "p", "c", reward=reward)


def test_graded_rewards_below_one_are_incorrect() -> None:
    graded = replace(batch(), reward=torch.tensor([0.99, 1.0, 0.0, 1.0]))
    algorithm = with_steps(critic(incorrect_samples="drop"), graded, 3)
    weights = algorithm.weigh(graded).weights
    assert not weights[[0, 2]].any()
    assert weights.sum().item() == pytest.approx(graded.valid.sum().item(), rel=1e-3)
    assert algorithm.needs == {"reward", "correct"}
    early = critic(incorrect_samples="drop", value_phase={"share": 0.9, "policy_loss": True})
    correct_first = critic(value_phase={"share": 0.9, "policy_loss": "correct"})
    assert "correct" in correct_first.needs
    # Uniform in phase value and warm-up.
    for scheme in (early, correct_first, critic(incorrect_samples="drop")):
        weights = scheme.weigh(graded).weights
        correct = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None]
        assert torch.equal(weights, graded.valid * correct)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cross_fit": 2, "trunk": "trained"}, "needs trunk frozen"),
        ({"value_clip": 0.2, "value_loss": "pairwise"}, "value_clip limits"),
        ({"value_clip": 0.2, "value_coef": 0.0}, "value_clip limits"),
        ({"values_from": "run", "value_loss": "bce"}, "leave out value_loss"),
        ({"values_from": "run", "value_phase": {"share": 0.0}}, "leave out value_phase"),
        ({"value_phase": {"share": 1.1}}, "less than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Critic.Config(**settings)


def test_phases_by_step() -> None:
    assert critic().value_phase_steps(600) == 100
    assert critic(value_phase={"share": 1.0}).value_phase_steps(7) == 7
    own = critic(values_from="run")
    assert own.value_phase_steps(7) == 0
    assert own.value_head is None
    assert own.weigh(batch(step=0)).auxiliary is None
    head = critic(value_phase={"share": 0.0}, value_clip=0.2).value_head
    assert (head.trained_before, head.anchored) == (True, True)
