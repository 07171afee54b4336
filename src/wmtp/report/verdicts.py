"""What may be said about a difference: strict rules, in plain words.

A difference is *within noise* when its interval contains 0, or when its p-value after Holm's
correction is not below 0.05. With fewer than three seeds, or with unequal token budgets, nothing
is claimed. *Weighting helps* only when an algorithm is better than the baseline and better than
its own shuffled weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from wmtp.report.groups import BASELINE, SHUFFLED, Group, reference_group
from wmtp.report.statistics import holm

MIN_SEEDS = 3
SIGNIFICANCE = 0.05
PASS = "pass@1"
HELD_OUT = "held-out cross-entropy of head 0"

Standing = Literal["no claim", "within noise", "better", "worse"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One group's metric minus a reference group's, paired by seed and task, with a 95 % interval.

    seeds, tasks: how many pairs of each (tasks is None for a metric that is one number per run).
    p_value, adjusted_p: two-sided, before and after Holm's correction over all differences of the
    metric; None with fewer than three seeds. verdict: the standing in plain words.
    """

    metric: str
    benchmark: str | None
    label: str
    reference: str
    value: float
    low: float | None
    high: float | None
    seeds: int
    tasks: int | None
    p_value: float | None = None
    adjusted_p: float | None = None
    standing: Standing = "no claim"
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """What may be said of one algorithm on one metric; `helps` only when weighting helps."""

    metric: str
    benchmark: str | None
    label: str
    helps: bool
    text: str


def judge(differences: Sequence[Difference], budgets_match: bool) -> list[Difference]:
    """Return the differences with Holm's correction within each metric, and their verdicts."""
    judged = []
    for metric in dict.fromkeys(difference.metric for difference in differences):
        family = [difference for difference in differences if difference.metric == metric]
        p_values = [d.p_value for d in family if d.p_value is not None]
        adjusted = iter(holm(p_values))
        for difference in family:
            p_value = None if difference.p_value is None else next(adjusted)
            standing, verdict = _verdict(difference, p_value, len(p_values), budgets_match)
            judged.append(
                replace(difference, adjusted_p=p_value, standing=standing, verdict=verdict)
            )
    return judged


def _verdict(
    difference: Difference, adjusted_p: float | None, num_tests: int, budgets_match: bool
) -> tuple[Standing, str]:
    low, high = difference.low, difference.high
    if low is not None and high is not None and low <= 0 <= high:
        return "within noise", "within noise"
    if difference.seeds < MIN_SEEDS:
        return "no claim", few_seeds(difference.seeds)
    if not budgets_match:
        return "no claim", "budgets differ; no claim"
    if adjusted_p is None or adjusted_p >= SIGNIFICANCE:
        return "within noise", f"within noise after correcting for {num_tests} comparisons"
    better = (difference.value > 0) == (difference.metric == PASS)
    standing: Standing = "better" if better else "worse"
    return standing, standing


def few_seeds(seeds: int) -> str:
    """Return why `seeds`, fewer than three, support no claim."""
    count = {1: "one seed", 2: "two seeds"}.get(seeds, "no common seed")
    alone = " alone" if seeds == 1 else ""
    return f"{count}: differences may be due to the seed{alone}; no claim"


def make_claims(
    groups: Sequence[Group], differences: Sequence[Difference], budgets_match: bool
) -> list[Claim]:
    """Return one claim per algorithm and benchmark from judged differences of one metric."""
    claims = []
    for benchmark in dict.fromkeys(difference.benchmark for difference in differences):
        found = {(d.label, d.reference): d for d in differences if d.benchmark == benchmark}
        for group in groups:
            if group.algorithm in (BASELINE, SHUFFLED):
                continue
            baseline = reference_group(group, groups, BASELINE)
            control = reference_group(group, groups, SHUFFLED)
            helps, text = _claim(
                found.get((group.label, baseline.label)) if baseline else None,
                found.get((group.label, control.label)) if control else None,
                own_control=control is None or control.shuffles in (None, group.algorithm),
                budgets_match=budgets_match,
            )
            claims.append(Claim(differences[0].metric, benchmark, group.label, helps, text))
    return claims


def _claim(
    baseline: Difference | None, control: Difference | None, own_control: bool, budgets_match: bool
) -> tuple[bool, str]:
    if baseline is None:
        return False, f"no results of {BASELINE} to compare with; no claim"
    if not budgets_match:
        return False, "budgets differ; no claim"
    if baseline.seeds < MIN_SEEDS:
        return False, few_seeds(baseline.seeds)
    if baseline.standing == "within noise":
        return False, f"the difference to the baseline is {baseline.verdict}"
    if baseline.standing == "worse":
        return False, "worse than the baseline"
    if control is None:
        return False, "better than the baseline, but no shuffled control was run; no claim"
    if control.standing != "better":
        return False, (
            "better than the baseline but not than shuffled weights: no sign that it matters "
            "which tokens are weighed up"
        )
    if not own_control:
        return False, (
            "better than the baseline and than a shuffle of another scheme's weights, but its own "
            "shuffle was not run; no claim"
        )
    return True, "weighting helps: better than the baseline and than its own weights shuffled"
