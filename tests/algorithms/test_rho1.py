"""Rho-1: modes, schedules, selection by token, and what the reference means."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from tests.algorithms.test_algorithms import H, S, asked, batch
from tests.tiny import tiny_data, tiny_model
from wmtp.algorithms.rho1 import Rho1, excess_loss, rho1_soft_weights, rho1_weights
from wmtp.data.collate import Collate
from wmtp.weighting import align_to_heads


def rho1(**settings) -> Rho1:
    return Rho1(Rho1.Config(reference="r", **settings))


def test_a_policy_that_is_its_reference_has_no_excess() -> None:
    model, inputs = tiny_model(), Collate(4, 0)(list(enumerate(tiny_data(4).items)))
    with torch.no_grad():
        ce = model(inputs["input_ids"], labels=inputs["labels"]).ce
    by_token = torch.nn.functional.pad(ce[:, :-1, 0], (1, 0))
    valid = inputs["labels"] != -100
    assert not excess_loss(ce, by_token)[valid[..., 0]][:, 0].any()
    assert excess_loss(ce, by_token)[valid].any()  # further heads see less


@pytest.mark.parametrize("mode", ["softmax", "abs_softmax", "emphasis"])
@pytest.mark.parametrize("keep_head_0", [False, True])
def test_soft_modes_against_loops(mode: str, keep_head_0: bool) -> None:
    given = batch()
    ce, valid, ref = given.ce.double(), given.valid, given.ref_ce.double()
    found = rho1_soft_weights(given.ce, given.ref_ce, valid, mode, 0.7, 0.3, keep_head_0)
    want = torch.zeros_like(ce)
    for b in range(len(ce)):
        excess = torch.zeros(S, H, dtype=torch.float64)
        for t in range(S):
            for k in range(H):
                if valid[b, t, k]:
                    excess[t, k] = ce[b, t, k] - ref[b, t + k + 1]
        if mode == "abs_softmax":
            excess = excess.abs()
        if mode == "emphasis":
            for k in range(H):
                places = [t for t in range(S) if valid[b, t, k]]
                number = max(1, round(0.3 * len(places)))
                for t in sorted(places, key=lambda t: -float(excess[t, k]))[:number]:
                    excess[t, k] += abs(float(excess[t, k]))
        for t in range(S):
            heads = [k for k in range(H) if valid[b, t, k]]
            parts = [math.exp(excess[t, k] / 0.7) for k in heads]
            for k, part in zip(heads, parts, strict=True):
                want[b, t, k] = len(heads) * part / sum(parts)
    want /= want.sum(dim=1, keepdim=True) / valid.sum(dim=1, keepdim=True)
    if keep_head_0:
        want[..., 0] = valid[..., 0]
    torch.testing.assert_close(found.double(), want, rtol=1e-4, atol=1e-5)


def test_tokens_are_chosen_once_for_all_heads() -> None:
    given = batch()
    by_head = rho1_weights(given.ce, given.ref_ce, given.valid, 0.5)
    by_token = rho1_weights(given.ce, given.ref_ce, given.valid, 0.5, select_by="token")
    assert torch.equal(by_token[..., 0], by_head[..., 0])
    tokens = torch.nn.functional.pad(by_head[:, :-1, 0] > 0, (1, 0))
    assert torch.equal(by_token > 0, align_to_heads(tokens, H) & given.valid)
    first = asked(rho1(keep=0.5, select_by="token"), given)
    assert first.ce.shape == (4, S, 1)
    kept = rho1(keep=0.5, select_by="token").weigh(first).weights
    assert torch.equal(kept[..., 1:], by_token[..., 1:])
    assert torch.equal(kept[..., 0], given.valid[..., 0].float())


@pytest.mark.parametrize("select_by", ["head", "token"])
def test_what_is_no_target_is_never_looked_at(select_by: str) -> None:
    """Prompt, padding and the rows of others: their losses and those of the reference do not count."""
    given = batch(padding=3)
    noise = torch.rand(given.ce.shape) * 100
    other = replace(
        given,
        ce=torch.where(given.valid, given.ce, noise),
        ref_ce=torch.where(given.completion, given.ref_ce, noise[..., 0]),
    )
    one, two = (
        rho1_weights(b.ce, b.ref_ce, b.valid, 0.5, select_by=select_by) for b in (given, other)
    )
    assert torch.equal(one, two)


def test_the_share_kept_falls_linearly() -> None:
    algorithm = rho1(keep=0.2, keep_warmup=0.5, always_keep_head_0=False)
    shares = []
    for step in (0, 5, 10, 19):
        given = batch(step=step, total=20)
        weights = algorithm.weigh(given).weights[..., 0][given.valid[..., 0]]
        shares.append((weights > 0).float().mean().item())
    assert shares[0] == 1.0
    assert shares == pytest.approx([1.0, 0.6, 0.2, 0.2], abs=0.05)
    first = batch(step=0, total=20)
    assert torch.equal(algorithm.weigh(first).weights, first.valid.float())


def test_what_the_scheme_has_to_know() -> None:
    assert rho1().uses_ce == "all"
    assert rho1(keep=1).uses_ce == "none"
    assert rho1(keep=1, min_ce_diff=0.0).uses_ce == "all"
    assert rho1(select_by="token").uses_ce == "head_0"
    assert rho1(select_by="token", always_keep_head_0=False).uses_ce == "all"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0}, "greater than 0"),
        ({"keep": 1.1}, "less than or equal to 1"),
        ({"mode": "softmax", "keep": 0.5}, "keep is for mode topk, the mode is softmax"),
        ({"temperature": 1.0}, "temperature is for mode softmax and abs_softmax and emphasis"),
        ({"mode": "softmax", "emphasis_share": 0.1}, "is for mode emphasis"),
        ({"mode": "softmax", "temperature": 0}, "greater than 0"),
    ],
)
def test_bad_settings_are_refused(settings, message) -> None:
    with pytest.raises(ValidationError, match=message):
        rho1(**settings)
