"""Controls: the same weights elsewhere, of any scheme; and schemes put together."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from tests.algorithms.test_algorithms import CASES, B, H, asked, batch, scheme, warmed
from wmtp.algorithms.inverted import inverted_weights
from wmtp.algorithms.oracle import oracle_weights
from wmtp.algorithms.random_matched import matched_weights
from wmtp.errors import ConfigError
from wmtp.registry import ALGORITHMS
from wmtp.weighting import align_to_heads

CONTROLS = ("shuffled", "random-matched", "inverted", "oracle")
RHO1 = {"name": "rho1-wmtp", "reference": "r", "always_keep_head_0": False}


def rows(weights: torch.Tensor, valid: torch.Tensor):
    for b in range(B):
        for k in range(H):
            yield weights[b, :, k][valid[b, :, k]]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("name", ["critic-wmtp", "rho1-wmtp", "gradient-importance", "by token"])
def test_a_control_keeps_the_moments_of_its_scheme(control: str, name: str) -> None:
    """Mean and spread of every sequence and head, after clipping."""
    of, settings = CASES[name]
    inner = warmed(of, settings)
    outer = scheme(control, {"of": {"name": of, **settings}})
    outer.restore(inner.state)
    given = batch()
    ours = outer.weigh(asked(outer, given)).weights
    theirs = inner.weigh(asked(inner, given)).weights
    for mine, yours in zip(rows(ours, given.valid), rows(theirs, given.valid), strict=True):
        assert mine.mean().item() == pytest.approx(yours.mean().item(), rel=1e-5)
        assert mine.std(correction=0).item() == pytest.approx(
            yours.std(correction=0).item(), rel=1e-4, abs=1e-5
        )
        if control != "random-matched":
            assert torch.equal(mine.sort().values, yours.sort().values)


def test_random_weights_can_be_as_uneven_as_a_single_one() -> None:
    valid = torch.ones(1, 5, 2, dtype=torch.bool)
    weights = torch.zeros(1, 5, 2)
    weights[0, 3, 0], weights[0, :, 1] = 5.0, 0.0
    found = matched_weights(weights, valid, [3])
    assert sorted(found[0, :, 0].tolist()) == pytest.approx([0, 0, 0, 0, 5.0], abs=1e-3)
    assert not found[0, :, 1].any()
    assert not torch.equal(
        matched_weights(weights + torch.rand(1, 5, 2), valid, [3]),
        matched_weights(weights + torch.rand(1, 5, 2), valid, [4]),
    )


def test_inverted_by_hand() -> None:
    weights = torch.tensor([[[3.0], [0.5], [1.0], [9.0]]])
    valid = torch.tensor([[[True], [True], [True], [False]]])
    assert inverted_weights(weights, valid, [0]).flatten().tolist() == [0.5, 3.0, 1.0, 0.0]


def test_an_inverted_selection_takes_all_that_was_left_out() -> None:
    given, chosen = batch(), scheme(*CASES["rho1-wmtp"]).weigh(batch()).weights
    found = inverted_weights(chosen, given.valid, [1, 2, 3, 4])
    assert (found[given.valid & (chosen == 0)] > 0).all()
    assert (found[given.valid & (chosen > 0)] == 0).any()
    other = inverted_weights(chosen, given.valid, [5, 6, 7, 8])
    assert not torch.equal(found, other)  # equal weights have no order of their own


def test_oracle_by_hand() -> None:
    weights = torch.tensor([[[2.0], [0.5], [1.0], [9.0]]])
    valid = torch.tensor([[[True], [True], [True], [False]]])
    fault = torch.tensor([[False, True, False, True]])  # tokens 1 and 3: targets of 0 and 2
    found = oracle_weights(weights, valid, fault)
    assert found.flatten().tolist() == [1.0, 2.0, 0.5, 0.0]
    assert torch.equal(oracle_weights(weights, valid, fault & False), weights * valid)


def test_no_fault_outweighs_a_sound_token_of_the_oracle() -> None:
    algorithm, given = scheme("oracle", {"of": RHO1}), batch()
    weights = algorithm.weigh(given).weights
    fault = align_to_heads(given.fault, H)
    for b in range(B):
        for k in range(H):
            valid = given.valid[b, :, k]
            bad, good = (weights[b, :, k][valid & f] for f in (fault[b, :, k], ~fault[b, :, k]))
            if len(bad) and len(good):
                assert bad.max() <= good.min() or bad.sum() < good.sum()
                assert bad.max() <= good.sort().values[0]
    assert algorithm.needs == {"fault", "ref_ce"}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_is_its_scheme_but_for_the_weights(control: str) -> None:
    critic = scheme(control, {"of": {"name": "critic-wmtp", "value_head": "mlp"}})
    assert critic.value_head == critic.scheme.value_head
    assert critic.value_head.kind == "mlp"
    assert critic.value_phase_steps(60) == 10
    assert "reward" in critic.needs
    given = asked(critic, batch())
    answer, plain = critic.weigh(given), critic.scheme.weigh(given)
    assert torch.equal(answer.auxiliary, plain.auxiliary)
    assert answer.sums.keys() == plain.sums.keys()
    assert critic.end_step(answer.sums).keys() == critic.scheme.end_step(plain.sums).keys()
    token = scheme(control, {"of": {**RHO1, "always_keep_head_0": True, "select_by": "token"}})
    assert (token.reference, token.uses_ce) == ("r", "head_0")
    importance = scheme(control, {"of": {"name": "gradient-importance", "every_n_steps": 3}})
    assert [importance.asks_for_importance(step) for step in range(4)] == [True, False, False, True]


@pytest.mark.parametrize("inner", CONTROLS)
@pytest.mark.parametrize("outer", CONTROLS)
def test_a_control_of_a_control_is_refused_but_for_the_oracle(outer: str, inner: str) -> None:
    settings = {"of": {"name": inner, "of": {"name": "focal"}}}
    if outer == "oracle" and inner != "oracle":
        assert scheme(outer, settings).needs == {"fault"}
        return
    with pytest.raises(ConfigError, match=f"{inner} moves weights that would be moved again"):
        scheme(outer, settings)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({"name": "rho-wmtp"}, "unknown algorithm 'rho-wmtp'. Did you mean 'rho1-wmtp'"),
        ({"name": "focal", "gama": 1.0}, "focal.gama: unknown key. Did you mean 'gamma'"),
        ({**RHO1, "keep": 1.7}, "rho1-wmtp.keep: 1.7 is above 1.0. Meaning: Share of valid"),
    ],
)
def test_mistakes_in_the_inner_settings_are_explained(of, message) -> None:
    with pytest.raises(ValidationError, match=message):
        ALGORITHMS.get("inverted").Config(of=of)


def test_hybrid_of_critic_and_rho1_is_their_product() -> None:
    algorithm = warmed(*CASES["hybrid"])
    first, second = algorithm.schemes.values()
    given = batch()
    product = first.weigh(given).weights * second.weigh(given).weights
    found = algorithm.weigh(given)
    torch.testing.assert_close(found.weights, product / algorithm.moments.mean())
    assert torch.equal(found.auxiliary, first.weigh(given).auxiliary)
    assert algorithm.value_head == first.value_head
    assert (algorithm.reference, algorithm.needs) == ("r", {"reward", "ref_ce"})


def test_a_phase_without_weights_leaves_the_running_mean_alone() -> None:
    settings = {
        "first": {"name": "critic-wmtp", "value_phase": {"share": 0.5}},
        "second": {"name": "focal"},
    }
    algorithm = scheme("hybrid", settings)
    for step in range(4):
        answer = algorithm.weigh(batch(step=step))
        assert not answer.weights.any()
        algorithm.end_step(answer.sums)
    assert not algorithm.moments.known
    for step in range(5, 10):
        answer = algorithm.weigh(batch(step=step))
        algorithm.end_step(answer.sums)
        assert answer.weights[batch().valid].mean().item() == pytest.approx(1.0, abs=0.05)


def test_interpolation_by_hand() -> None:
    settings = {"first": {"name": "focal"}, "second": RHO1, "combine": "interpolation"}
    algorithm, given = scheme("hybrid", {**settings, "share": 0.25}), batch()
    first, second = (s.weigh(given).weights for s in algorithm.schemes.values())
    assert torch.equal(algorithm.weigh(given).weights, 0.25 * first + 0.75 * second)
    assert algorithm.uses_ce == "all"


def test_schemes_that_do_not_go_together_are_refused() -> None:
    critic, other = {"name": "critic-wmtp"}, {**RHO1, "reference": "q"}
    with pytest.raises(ConfigError, match="both schemes need values"):
        scheme("hybrid", {"first": critic, "second": critic})
    with pytest.raises(ConfigError, match="have the references r and q"):
        scheme("hybrid", {"first": RHO1, "second": other})
    with pytest.raises(ValidationError, match="share has no meaning when combine is product"):
        scheme("hybrid", {"first": critic, "second": RHO1, "share": 0.5})
