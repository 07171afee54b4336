from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from wmtp.report.groups import Group
from wmtp.report.runs import Run, Summary
from wmtp.report.verdicts import HELD_OUT, PASS, Claim, Difference, judge, make_claims


def difference(
    label: str,
    reference: str,
    value: float,
    half: float,
    *,
    seeds: int = 3,
    p: float | None = 0.001,
) -> Difference:
    return Difference(
        PASS, "minicode", label, reference, value, value - half, value + half, seeds, 100, p
    )


def group(algorithm: str, shuffles: str | None = None) -> Group:
    recipe = {"algorithm": {"name": algorithm, **({"of": {"name": shuffles}} if shuffles else {})}}
    summary = Summary(algorithm, algorithm, 0, "complete", 1, 1)
    return Group(algorithm, algorithm, (Run(Path(), summary, recipe, {}, {}, (), (), {}),))


GROUPS = [group("mtp-baseline"), group("rho1-wmtp"), group("shuffled", "rho1-wmtp")]
BETTER = difference("rho1-wmtp", "mtp-baseline", 0.1, 0.02)
BEATS_SHUFFLE = difference("rho1-wmtp", "shuffled", 0.1, 0.02)


def claim_of(
    differences: list[Difference], groups: list[Group] = GROUPS, budgets_match: bool = True
) -> Claim:
    (claim,) = make_claims(groups, judge(differences, budgets_match), budgets_match)
    return claim


def test_an_interval_that_contains_zero_is_within_noise() -> None:
    (judged,) = judge([difference("a", "b", 0.05, 0.05)], budgets_match=True)
    assert (judged.standing, judged.verdict) == ("within noise", "within noise")


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (1, "one seed: differences may be due to the seed alone; no claim"),
        (2, "two seeds: differences may be due to the seed; no claim"),
    ],
)
def test_fewer_than_three_seeds_claim_nothing(seeds: int, words: str) -> None:
    found = [replace(d, seeds=seeds, p_value=None) for d in (BETTER, BEATS_SHUFFLE)]
    assert [d.standing for d in judge(found, budgets_match=True)] == ["no claim"] * 2
    claim = claim_of(found)
    assert not claim.helps
    assert claim.text == words


def test_the_sign_that_is_better_depends_on_the_metric() -> None:
    up = difference("a", "b", 0.2, 0.1)
    (rate,) = judge([up], budgets_match=True)
    (loss,) = judge([replace(up, metric=HELD_OUT)], budgets_match=True)
    assert (rate.standing, loss.standing) == ("better", "worse")


def test_holm_turns_a_close_call_into_noise() -> None:
    close = difference("a", "b", 0.1, 0.09, p=0.03)
    assert judge([close], budgets_match=True)[0].standing == "better"
    judged = judge([close, difference("c", "b", 0.1, 0.09, p=0.04)], budgets_match=True)
    assert judged[0].adjusted_p == pytest.approx(0.06)
    assert judged[0].verdict == "within noise after correcting for 2 comparisons"


def test_each_metric_is_corrected_on_its_own() -> None:
    other = replace(difference("a", "b", 0.1, 0.09, p=0.03), metric=HELD_OUT)
    judged = judge([difference("a", "b", 0.1, 0.09, p=0.03), other], budgets_match=True)
    assert [d.adjusted_p for d in judged] == [0.03, 0.03]


def test_weighting_helps_only_against_baseline_and_own_shuffle() -> None:
    claim = claim_of([BETTER, BEATS_SHUFFLE])
    assert claim.helps
    assert claim.text.startswith("weighting helps")

    noise = difference("rho1-wmtp", "shuffled", 0.01, 0.05, p=0.6)
    assert "not than shuffled weights" in claim_of([BETTER, noise]).text
    assert not claim_of([BETTER, noise]).helps

    assert "no shuffled control" in claim_of([BETTER], GROUPS[:2]).text
    other = [*GROUPS[:2], group("shuffled", "critic-wmtp")]
    assert "its own shuffle was not run" in claim_of([BETTER, BEATS_SHUFFLE], other).text
    assert not claim_of([BETTER, BEATS_SHUFFLE], other).helps


def test_other_claims() -> None:
    worse = difference("rho1-wmtp", "mtp-baseline", -0.1, 0.02)
    noise = difference("rho1-wmtp", "mtp-baseline", 0.01, 0.05)
    assert claim_of([worse, BEATS_SHUFFLE]).text == "worse than the baseline"
    assert claim_of([noise, BEATS_SHUFFLE]).text == "the difference to the baseline is within noise"
    assert "to compare with" in claim_of([BEATS_SHUFFLE], GROUPS[1:]).text


def test_unequal_budgets_claim_nothing() -> None:
    judged = judge([BETTER], budgets_match=False)
    assert judged[0].verdict == "budgets differ; no claim"
    assert claim_of([BETTER, BEATS_SHUFFLE], budgets_match=False).text == "budgets differ; no claim"
