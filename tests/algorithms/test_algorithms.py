"""Schemes: the contract all keep, and what each one means."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from wmtp.algorithms.base import Algorithm, Batch, RunningMoments
from wmtp.algorithms.baseline import Baseline
from wmtp.algorithms.critic import Critic, critic_weights
from wmtp.algorithms.rho1 import Rho1, rho1_weights
from wmtp.algorithms.shuffled import Shuffled
from wmtp.errors import ConfigError
from wmtp.losses import horizon_labels
from wmtp.registry import ALGORITHMS
from wmtp.weighting import align_to_heads, gae

B, S, H = 4, 12, 3


def batch(seed: int = 0, step: int = 5, total: int = 10, padding: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    completion = torch.zeros(B, S + padding, dtype=torch.bool)
    for b in range(B):
        completion[b, 2 + b : S - b] = True
    ids = torch.zeros(B, S + padding, dtype=torch.long)
    labels = horizon_labels(ids.masked_fill(~completion, -100), H)
    valid = labels != -100

    def random(*shape: int) -> torch.Tensor:
        made = torch.rand(*shape, generator=generator)
        return torch.nn.functional.pad(
            made, (0, 0, 0, padding) if made.dim() == 3 else (0, padding)
        )

    return Batch(
        ce=random(B, S, H) * 4 * valid,
        valid=valid,
        completion=completion,
        sample_ids=[3, 1, 4, 15],
        step=step,
        total_steps=total,
        value=random(B, S),
        reward=torch.tensor([0.0, 1.0, 0.0, 1.0]),
        ref_ce=random(B, S) * 4,
        fault=random(B, S) < 0.2,
        token_ids=(random(B, S) * 7).long(),
        vocab_size=7,
        importance=random(B, S),
        entropy=random(B, S, H) * 3 * valid,
    )


def part(given: Batch, rows: slice) -> Batch:
    """Return these rows alone."""
    fields = {
        name: value[rows]
        for name in given.__dataclass_fields__
        if isinstance(value := getattr(given, name), torch.Tensor | list)
    }
    return replace(given, **fields)


SCHEMES = {
    "mtp-baseline": {},
    "rho1-wmtp": {"reference": "r", "always_keep_head_0": False},
    "critic-wmtp": {},
    "token-probability": {},
    "high-entropy": {},
    "focal": {},
    "gradient-importance": {"every_n_steps": 5},
    "hybrid": {"first": {"name": "critic-wmtp"}, "second": {"name": "rho1-wmtp", "reference": "r"}},
    "shuffled": {"of": {"name": "critic-wmtp"}},
    "random-matched": {"of": {"name": "focal"}},
    "inverted": {"of": {"name": "critic-wmtp"}},
    "oracle": {"of": {"name": "token-probability"}},
}
VARIANTS = {
    "softmax": ("rho1-wmtp", {"reference": "r", "mode": "softmax"}),
    "abs_softmax": ("rho1-wmtp", {"reference": "r", "mode": "abs_softmax"}),
    "emphasis": (
        "rho1-wmtp",
        {"reference": "r", "mode": "emphasis", "always_keep_head_0": False},
    ),
    "by token": ("rho1-wmtp", {"reference": "r", "select_by": "token"}),
    "by token, head 0 too": (
        "rho1-wmtp",
        {"reference": "r", "select_by": "token", "always_keep_head_0": False},
    ),
    "measured": ("gradient-importance", {"every_n_steps": 1}),
    "interpolation": (
        "hybrid",
        {
            "first": {"name": "critic-wmtp"},
            "second": {"name": "gradient-importance"},
            "combine": "interpolation",
        },
    ),
    "oracle of shuffled": (
        "oracle",
        {"of": {"name": "shuffled", "of": {"name": "rho1-wmtp", "reference": "r"}}},
    ),
}
NEUTRAL = {
    "mtp-baseline": {},
    "rho1-wmtp": {"reference": "r", "keep": 1.0},
    "critic-wmtp": {"beta": 1e9},
    "token-probability": {"power": 0.0},
    "high-entropy": {"keep": 1.0},
    "focal": {"gamma": 0.0},
    "gradient-importance": {"power": 0.0},
    "hybrid": {"first": {"name": "mtp-baseline"}, "second": {"name": "mtp-baseline"}},
    **{
        name: {"of": {"name": "mtp-baseline"}}
        for name in ("shuffled", "random-matched", "inverted", "oracle")
    },
}
CASES = {**{name: (name, settings) for name, settings in SCHEMES.items()}, **VARIANTS}


def scheme(name: str, settings: dict):
    cls = ALGORITHMS.get(name)
    return cls(cls.Config(**settings), seed=1)


def warmed(name: str, settings: dict):
    """Return a scheme whose running statistics, if it has any, have seen some steps."""
    algorithm = scheme(name, settings)
    for step in range(60 if algorithm.state else 0):
        sums = algorithm.weigh(asked(algorithm, batch(step=step, total=60))).sums
        if sums:
            algorithm.end_step(sums)
    return algorithm


def asked(algorithm: Algorithm, given: Batch) -> Batch:
    """Return the batch with what the trainer would show the scheme alone."""
    ce = {"none": None, "head_0": given.ce[..., :1], "all": given.ce}[algorithm.uses_ce]
    importance = given.importance if algorithm.asks_for_importance(given.step) else None
    hidden = {
        name: None
        for name in ("reward", "ref_ce", "fault", "entropy")
        if name not in algorithm.needs
    }
    if algorithm.value_head is None:
        hidden["value"] = None
    return replace(given, ce=ce, importance=importance, **hidden)


def test_every_shipped_scheme_is_tested_here() -> None:
    assert set(SCHEMES) == set(NEUTRAL) == set(ALGORITHMS.names())


@pytest.mark.parametrize("name", list(CASES))
def test_contract(name: str) -> None:
    algorithm = warmed(*CASES[name])
    given = batch()
    weights = algorithm.weigh(asked(algorithm, given)).weights
    assert weights.shape == (B, S, H)
    assert weights.dtype == torch.float32
    assert not weights.requires_grad
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    assert not weights[~given.valid].any()
    for k in range(H):
        assert weights[..., k][given.valid[..., k]].mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("name", list(CASES))
def test_weights_depend_on_no_more_losses_than_the_scheme_says(name: str) -> None:
    algorithm, given = warmed(*CASES[name]), batch()
    weights = algorithm.weigh(given).weights
    others = given.ce.clone()
    others[..., 1:] = given.ce[..., 1:].flip(1) * given.valid[..., 1:]
    entropy = given.entropy.flip(1) * given.valid
    changed = replace(given, ce=others, entropy=entropy)
    if algorithm.uses_ce != "all":
        assert torch.equal(algorithm.weigh(changed).weights, weights)
    if algorithm.uses_ce == "head_0":
        assert torch.equal(weights[..., 0], given.valid[..., 0].float())
        changed = replace(given, ce=given.ce.flip(1) * given.valid)
        assert not torch.equal(algorithm.weigh(changed).weights, weights)


@pytest.mark.parametrize("name", list(CASES))
def test_weights_ignore_padding_and_neighbours(name: str) -> None:
    algorithm = warmed(*CASES[name])
    given, padded = (asked(algorithm, batch(padding=p)) for p in (0, 4))
    plain = algorithm.weigh(given).weights
    assert torch.equal(algorithm.weigh(padded).weights[:, :S], plain)
    row = part(given, slice(1, 2))
    assert torch.equal(algorithm.weigh(row).weights, plain[1:2])


@pytest.mark.parametrize("name", list(CASES))
def test_sums_do_not_depend_on_how_a_batch_is_cut(name: str) -> None:
    whole, halves = (scheme(*CASES[name]) for _ in range(2))
    for step in range(2):
        given = asked(whole, batch(seed=step, step=step))
        if not (sums := whole.weigh(given).sums):
            continue
        parts = [halves.weigh(part(given, rows)).sums for rows in (slice(0, 1), slice(1, 4))]
        whole.end_step(sums)
        halves.end_step({key: parts[0][key] + parts[1][key] for key in sums})
    given = asked(whole, batch(seed=9, step=3))
    torch.testing.assert_close(halves.weigh(given).weights, whole.weigh(given).weights)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_signal_that_is_no_number_is_not_hidden(name: str, wrong: float) -> None:
    """Its sequence gets a weight that is no number, which the trainer leaves out; others do not."""
    algorithm = warmed(*CASES[name])
    given = asked(algorithm, batch(step=0 if name == "gradient-importance" else 5, total=10))
    usual = algorithm.weigh(given).weights
    signals = ("ref_ce", "importance", "entropy")
    if math.isnan(wrong):  # an infinite loss shows itself, and a sigmoid is never infinite
        signals += ("value",) if name == "high-entropy" else ("value", "ce")
    for field in signals:
        signal = getattr(given, field)
        if signal is None:
            continue
        broken = signal.clone()
        broken[2, 6] = wrong
        found = algorithm.weigh(replace(given, **{field: broken})).weights
        assert not torch.isfinite(found[2]).all(), field
        assert torch.equal(found[:2], usual[:2]), field


@pytest.mark.parametrize("name", list(CASES))
def test_one_target_short_sequences_and_equal_losses(name: str) -> None:
    """A lone target weighs 1 or, where the scheme may drop it, 0; heads without targets have none."""
    algorithm = scheme(*CASES[name])
    labels = torch.full((2, 3), -100)
    labels[:, 1:] = torch.tensor([[5, 6], [-100, 6]])
    valid = horizon_labels(labels, 6) != -100
    completion = labels != -100
    even = torch.ones(2, 3)
    given = Batch(
        ce=torch.where(valid, 2.0, 0.0),
        valid=valid,
        completion=completion,
        sample_ids=[0, 1],
        step=5,
        total_steps=10,
        value=even / 2,
        reward=even[:, 0] / 2,
        ref_ce=even,
        fault=torch.zeros(2, 3, dtype=torch.bool),
        token_ids=torch.zeros(2, 3, dtype=torch.long),
        vocab_size=7,
        entropy=torch.where(valid, 1.0, 0.0),
        importance=even,
    )
    weights = algorithm.weigh(asked(algorithm, given)).weights
    assert weights.shape == (2, 3, 6)
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    assert not weights[~valid].any()
    assert not weights[..., 2:].any()
    if not algorithm.state:  # running statistics make whole samples heavier or lighter
        torch.testing.assert_close(weights[1].sum(dim=0)[:2], torch.ones(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", list(CASES))
def test_a_micro_batch_without_targets_has_no_weights(name: str) -> None:
    """Its completions were cut off; the other micro-batches of the step go on."""
    algorithm = warmed(*CASES[name])
    given = batch(step=5)
    none = replace(
        given,
        valid=torch.zeros_like(given.valid),
        completion=torch.zeros_like(given.completion),
        ce=torch.zeros_like(given.ce),
        entropy=torch.zeros_like(given.entropy),
    )
    answer = algorithm.weigh(asked(algorithm, none))
    assert not answer.weights.any()
    assert all(torch.isfinite(value).all() for value in answer.sums.values())
    assert answer.auxiliary is None or not answer.auxiliary.any()
    before = json.dumps(algorithm.state)
    if answer.sums:  # and a step of such micro-batches alone leaves no trace in the statistics
        assert all(math.isfinite(v) for v in algorithm.end_step(answer.sums).values())
    steps = re.compile(r'"steps": \d+')
    assert steps.sub("", json.dumps(algorithm.state)) == steps.sub("", before)


@pytest.mark.parametrize("name", list(CASES))
def test_state_survives_a_checkpoint(name: str) -> None:
    algorithm, fresh = warmed(*CASES[name]), scheme(*CASES[name])
    fresh.restore(json.loads(json.dumps(algorithm.state)))
    assert fresh.state == algorithm.state
    given = asked(algorithm, batch())
    assert torch.equal(fresh.weigh(given).weights, algorithm.weigh(given).weights)
    if sums := algorithm.weigh(given).sums:
        assert fresh.end_step(sums) == algorithm.end_step(sums)
        assert fresh.state == algorithm.state


@pytest.mark.parametrize("name", list(NEUTRAL))
def test_a_neutral_setting_is_the_baseline(name: str) -> None:
    algorithm = warmed(name, NEUTRAL[name])
    given = batch()
    torch.testing.assert_close(
        algorithm.weigh(asked(algorithm, given)).weights, given.valid.float(), rtol=0, atol=1e-6
    )


def test_keeping_all_is_the_baseline_bit_for_bit() -> None:
    given = batch()
    weights = rho1_weights(given.ce, given.ref_ce, given.valid, keep=1.0)
    assert torch.equal(weights, given.valid.float())


def test_rho1_against_loops() -> None:
    given = batch()
    keep = 0.6
    found = rho1_weights(given.ce, given.ref_ce, given.valid, keep)
    for b in range(B):
        for k in range(H):
            excess = {
                t: (given.ce[b, t, k] - given.ref_ce[b, t + k + 1]).item()
                for t in range(S)
                if given.valid[b, t, k]
            }
            number = max(1, round(keep * len(excess)))
            kept = set(sorted(excess, key=lambda t: -excess[t])[:number])
            for t in range(S):
                want = len(excess) / number if t in kept else 0.0
                assert found[b, t, k].item() == pytest.approx(want, rel=1e-5)


def test_rho1_options() -> None:
    given = batch()
    head0 = rho1_weights(given.ce, given.ref_ce, given.valid, 0.5, always_keep_head_0=True)
    assert torch.equal(head0[..., 0], given.valid[..., 0].float())
    assert (head0[..., 1] == 0).any()
    none = rho1_weights(given.ce, given.ref_ce, given.valid, 0.5, min_ce_diff=100.0)
    assert not none.any()
    some = rho1_weights(given.ce, given.ref_ce, given.valid, 0.9, min_ce_diff=0.0)
    excess = given.ce - align_to_heads(given.ref_ce, H)
    assert (excess[some > 0] >= 0).all()


def test_rho1_sends_no_gradient_through_weights() -> None:
    given = batch()
    ce = given.ce.clone().requires_grad_()
    assert not rho1_weights(ce, given.ref_ce, given.valid).requires_grad


def test_critic_weights_by_hand() -> None:
    advantage = torch.tensor([[0.0, 0.9, -9.0, 0.45]])
    valid = torch.ones(1, 4, 2, dtype=torch.bool)
    valid[0, 3], valid[0, 2, 1] = False, False
    found = critic_weights(advantage, valid, beta=0.9, clip=(0.1, 5.0))
    e = math.e
    want = torch.tensor([[[e, 0.1], [0.1, e**0.5], [e**0.5, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(found, want)
    whitened = critic_weights(advantage, valid, 0.9, (0.1, 5.0), mean=0.9, std=0.5)
    assert whitened[0, 0, 0].item() == pytest.approx(1.0)


def test_a_constant_critic_gives_uniform_weights() -> None:
    algorithm = scheme("critic-wmtp", {"whiten": False})
    given = batch()
    same = Batch(
        **{
            **{f: getattr(given, f) for f in given.__dataclass_fields__},
            "value": torch.full((B, S), 0.25),
            "reward": torch.full((B,), 0.25),
        }
    )
    for _ in range(3):
        algorithm.end_step(algorithm.weigh(same).sums)
    torch.testing.assert_close(algorithm.weigh(same).weights, same.valid.float())


def test_critic_phases() -> None:
    settings = {"value_phase": {"share": 0.3}, "value_coef": 0.5}
    algorithm = scheme("critic-wmtp", settings)
    first = algorithm.weigh(batch(step=2))
    assert not first.weights.any()
    joint = scheme("critic-wmtp", {"value_phase": {"share": 0.3, "policy_loss": True}})
    assert torch.equal(joint.weigh(batch(step=2)).weights, batch().valid.float())
    algorithm.end_step(first.sums)
    warming = algorithm.weigh(batch(step=3))
    assert torch.equal(warming.weights, batch().valid.float())
    algorithm.end_step(warming.sums)
    second = algorithm.weigh(batch(step=3))
    assert second.weights[batch().valid].std() > 0
    torch.testing.assert_close(second.auxiliary, 0.5 * first.auxiliary)


def test_value_loss_is_the_mean_over_states_before_completion_tokens() -> None:
    given = batch(step=0)
    found = scheme("critic-wmtp", {}).weigh(given).auxiliary
    for b in range(B):
        for t in range(S):
            counts = t + 1 < S and given.completion[b, t + 1]
            want = (given.value[b, t] - given.reward[b]) ** 2 if counts else 0.0
            assert found[b, t].item() == pytest.approx(float(want), abs=1e-6)
    bce = scheme("critic-wmtp", {"value_loss": "bce"}).weigh(given).auxiliary
    assert bce[1, 5].item() == pytest.approx(-math.log(given.value[1, 5]), rel=1e-4)


def test_incorrect_samples_can_be_dropped() -> None:
    algorithm = warmed("critic-wmtp", {"incorrect_samples": "drop"})
    weights = algorithm.weigh(batch()).weights
    assert not weights[[0, 2]].any()
    assert weights[[1, 3]].any()


def test_whitening_uses_the_running_moments() -> None:
    algorithm = scheme("critic-wmtp", {"running_decay": 0.5})
    given = batch()
    metrics = algorithm.end_step(algorithm.weigh(given).sums)
    advantage = gae(given.value, given.reward, given.completion)[given.completion]
    mean, std = advantage.mean().item(), advantage.std(correction=0).item()
    assert algorithm.advantage_moments.mean().tolist() == pytest.approx([mean, mean], rel=1e-4)
    assert algorithm.advantage_moments.std().tolist() == pytest.approx([std, std], rel=1e-4)
    assert metrics["value/advantage_std"] == pytest.approx(std, rel=1e-4)


def test_state_survives_json() -> None:
    algorithm = warmed("critic-wmtp", {})
    fresh = scheme("critic-wmtp", {})
    fresh.restore(json.loads(json.dumps(algorithm.state)))
    assert torch.equal(fresh.weigh(batch()).weights, algorithm.weigh(batch()).weights)


def test_running_moments_by_hand() -> None:
    moments = RunningMoments({}, decay=0.75)
    assert not moments.known
    moments.update(torch.tensor(6.0), torch.tensor(20.0), torch.tensor(2))
    assert (moments.mean().item(), moments.std().item()) == (3.0, 1.0)
    moments.update(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0))
    assert moments.mean().item() == 3.0
    moments.update(torch.tensor(10.0), torch.tensor(100.0), torch.tensor(1))
    assert moments.mean().item() == pytest.approx((0.75 * 3 + 10) / 1.75)


def test_shuffled_has_the_weights_of_its_scheme_elsewhere() -> None:
    inner = scheme("rho1-wmtp", SCHEMES["rho1-wmtp"])
    control = scheme("shuffled", {"of": {"name": "rho1-wmtp", **SCHEMES["rho1-wmtp"]}})
    given = batch()
    ours, theirs = control.weigh(given).weights, inner.weigh(given).weights
    assert not torch.equal(ours, theirs)
    for b in range(B):
        for k in range(H):
            assert sorted(ours[b, :, k].tolist()) == sorted(theirs[b, :, k].tolist())
    assert not torch.equal(ours, control.weigh(batch(step=6)).weights)
    assert control.needs == {"ref_ce"}
    assert control.reference == "r"


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValidationError):
        Rho1.Config(reference="r", keep=0.0)
    with pytest.raises(ValidationError, match="clip_min"):
        Critic.Config(clip_min=5.0, clip_max=1.0)
    with pytest.raises(ValidationError):
        Critic.Config(beta=0.0)
    with pytest.raises(ConfigError, match="would be moved again"):
        Shuffled(Shuffled.Config(of={"name": "shuffled", "of": {"name": "mtp-baseline"}}))
    with pytest.raises(ValidationError):
        Baseline.Config(keep=0.5)
