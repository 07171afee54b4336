"""Compares algorithms: who solves more tasks, by how much, and whether that can be told from noise.

Each algorithm is compared with `mtp-baseline` and with `shuffled`, paired by seed and task. With
fewer than three seeds the interval covers the choice of tasks alone, and no claim is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wmtp.evaluation.metrics import Interval, clustered_interval, paired_difference
from wmtp.report.groups import (
    BASELINE,
    SHUFFLED,
    Budget,
    Group,
    group_runs,
    reference_group,
    token_budget,
    tokens_to_reach,
)
from wmtp.report.runs import Estimate, Run
from wmtp.report.statistics import MeanEstimate, mean_over_seeds_and_tasks
from wmtp.report.verdicts import (
    HELD_OUT,
    MIN_SEEDS,
    PASS,
    Claim,
    Difference,
    judge,
    make_claims,
)

HELD_OUT_FOLDER = "held-out"
HELD_OUT_KEY = "eval/ce/head_0"
BITS_KEY = "eval/bits_per_byte"


@dataclass(frozen=True, slots=True)
class TokensToBaseline:
    """Tokens to the baseline's final held-out loss, as a share of the baseline's tokens.

    ratio: mean over seeds, None unless all reached it; reached: how many of the seeds did.
    """

    ratio: float | None
    reached: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that the report says in numbers; inner dictionaries are keyed by group label."""

    groups: list[Group]
    benchmarks: list[str]
    budget: Budget
    solve_rates: dict[str, dict[str, Estimate]]
    held_out: dict[str, dict[str, Estimate]]
    differences: list[Difference]
    num_tests: int
    claims: list[Claim]
    flops_ratio: dict[str, float]
    tokens_to_baseline: dict[str, TokensToBaseline]

    def difference(
        self, label: str, algorithm: str, metric: str = PASS, benchmark: str | None = None
    ) -> Difference | None:
        """Return the difference of `label` to its reference of `algorithm`, or None."""
        references = {group.label for group in self.groups if group.algorithm == algorithm}
        for found in self.differences:
            key = (found.metric, found.benchmark, found.label)
            if key == (metric, benchmark, label) and found.reference in references:
                return found
        return None


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Return the comparison of all algorithms among `runs`."""
    groups = group_runs(runs)
    budget = token_budget(groups)
    benchmarks = sorted({name for run in runs for name in run.evaluations})
    differences = judge(_all_differences(groups, benchmarks), budget.matched)
    metric = PASS if any(d.metric == PASS for d in differences) else HELD_OUT
    deciding = [difference for difference in differences if difference.metric == metric]
    baseline = next((group for group in groups if group.algorithm == BASELINE), None)
    return Comparison(
        groups=groups,
        benchmarks=benchmarks,
        budget=budget,
        solve_rates={
            name: {g.label: rate for g in groups if (rate := solve_rate(g, name)) is not None}
            for name in benchmarks
        },
        held_out={
            key: {g.label: value for g in groups if (value := _over_seeds(g, key)) is not None}
            for key in (HELD_OUT_KEY, BITS_KEY)
        },
        differences=differences,
        num_tests=sum(difference.p_value is not None for difference in deciding),
        claims=make_claims(groups, deciding, budget.matched),
        flops_ratio=_flops_ratio(groups, baseline),
        tokens_to_baseline=_tokens_to_baseline(groups, baseline),
    )


def solve_rate(group: Group, benchmark: str) -> Estimate | None:
    """Return the group's pass@1 over its seeds, or None when it has none.

    One seed: as its evaluation reported it. Two: an interval over tasks. Three or more: over seeds
    and tasks. Tasks are those that all seeds share.
    """
    evaluations = [run.evaluations[benchmark] for run in group.runs if benchmark in run.evaluations]
    if len(evaluations) == 1 and PASS in evaluations[0].metrics:
        return evaluations[0].metrics[PASS]
    rates = _rates(group, benchmark)
    tasks = sorted(set.intersection(*map(set, rates.values()))) if rates else []
    if not tasks:
        return None
    table = np.array([[by_task[task] for task in tasks] for by_task in rates.values()])
    over_tasks = clustered_interval(table.mean(axis=0))
    if len(table) < MIN_SEEDS or table.min() == table.max():  # the latter has no spread to go by
        return Estimate(over_tasks.value, over_tasks.low, over_tasks.high, len(tasks))
    both = mean_over_seeds_and_tasks(table)
    return Estimate(both.value, max(0.0, both.low), min(1.0, both.high), len(tasks))


def difficulty_rates(group: Group, benchmark: str) -> dict[str, Estimate]:
    """Return pass@1 by level of difficulty; the interval is over seeds where there are three."""
    found = [run.evaluations[benchmark] for run in group.runs if benchmark in run.evaluations]
    if len(found) == 1:
        return found[0].by_difficulty
    levels: dict[str, list[float]] = {}
    for evaluation in found:
        for level, rate in evaluation.by_difficulty.items():
            levels.setdefault(level, []).append(rate.value)
    rates = {level: _mean(values) for level, values in levels.items()}
    return {
        level: replace(
            rate,
            low=None if rate.low is None else max(0.0, rate.low),
            high=None if rate.high is None else min(1.0, rate.high),
        )
        for level, rate in rates.items()
    }


def _rates(group: Group, benchmark: str) -> dict[int, dict[str, float]]:
    """Return the share of passed samples by seed and task; runs without outcomes are left out."""
    found = {
        run.summary.seed: run.evaluations[benchmark].pass_rates()
        for run in group.runs
        if benchmark in run.evaluations
    }
    return {seed: rates for seed, rates in found.items() if rates}


def _over_seeds(group: Group, key: str) -> Estimate | None:
    """Return the last logged `key` over seeds, or None when no run has it.

    A lone run has the interval over examples of its final held-out evaluation.
    """
    final = group.runs[0].evaluations.get(HELD_OUT_FOLDER) if len(group.runs) == 1 else None
    name = key.removeprefix("eval/")
    if final is not None and name in final.metrics:
        return final.metrics[name]
    values = list(_last_by_seed(group, key).values())
    return _mean(values) if values else None


def _last_by_seed(group: Group, key: str) -> dict[int, float]:
    """Return the last logged `key` by seed; runs without it are left out."""
    return {run.summary.seed: value for run in group.runs if (value := run.last(key)) is not None}


def _mean(values: list[float]) -> Estimate:
    """Return the mean over seeds, with an interval when there are three or more."""
    if len(values) < MIN_SEEDS:
        return Estimate(sum(values) / len(values), n=len(values))
    mean = mean_over_seeds_and_tasks(np.array(values)[:, None])
    return Estimate(mean.value, mean.low, mean.high, len(values))


def _all_differences(groups: list[Group], benchmarks: list[str]) -> list[Difference]:
    differences: list[Difference] = []
    for group in groups:
        for algorithm in (BASELINE, SHUFFLED):
            reference = reference_group(group, groups, algorithm)
            if reference is None or group.algorithm in (BASELINE, algorithm):
                continue
            found = [_pass_difference(group, reference, name) for name in benchmarks]
            found.append(_held_out_difference(group, reference))
            differences.extend(difference for difference in found if difference is not None)
    return differences


def _pass_difference(group: Group, reference: Group, benchmark: str) -> Difference | None:
    ours, theirs = _rates(group, benchmark), _rates(reference, benchmark)
    seeds = sorted(set(ours) & set(theirs))
    rates = [side[seed] for side in (ours, theirs) for seed in seeds]
    tasks = sorted(set.intersection(*map(set, rates))) if rates else []
    if not tasks:
        return None
    a, b = (np.array([[side[s][t] for t in tasks] for s in seeds]) for side in (ours, theirs))
    found: Interval | MeanEstimate = paired_difference(a.mean(axis=0), b.mean(axis=0))
    p_value = None
    if len(seeds) >= MIN_SEEDS:
        both = mean_over_seeds_and_tasks(a - b)
        p_value = both.p_value
        if both.low < both.high:  # else all pairs agree, and the interval over tasks has a width
            found = both
    return Difference(
        PASS,
        benchmark,
        group.label,
        reference.label,
        found.value,
        found.low,
        found.high,
        len(seeds),
        len(tasks),
        p_value,
    )


def _held_out_difference(group: Group, reference: Group) -> Difference | None:
    ours, theirs = (_last_by_seed(side, HELD_OUT_KEY) for side in (group, reference))
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    table = np.array([[ours[seed] - theirs[seed]] for seed in seeds])
    value, num_seeds = float(table.mean()), len(seeds)
    difference = Difference(
        HELD_OUT, None, group.label, reference.label, value, None, None, num_seeds, None
    )
    if num_seeds < MIN_SEEDS:
        return difference
    mean = mean_over_seeds_and_tasks(table)
    return replace(difference, low=mean.low, high=mean.high, p_value=mean.p_value)


def _flops_ratio(groups: Sequence[Group], baseline: Group | None) -> dict[str, float]:
    """Return training FLOPs, reference and critic included, over the baseline's."""
    base = baseline.mean("flops") if baseline else None
    flops = {group.label: group.mean("flops") for group in groups}
    return {label: value / base for label, value in flops.items() if value and base}


def _tokens_to_baseline(
    groups: Sequence[Group], baseline: Group | None
) -> dict[str, TokensToBaseline]:
    """Return how soon each group reaches the baseline's final held-out loss (mean over seeds)."""
    finals = list(_last_by_seed(baseline, HELD_OUT_KEY).values()) if baseline else []
    budget = baseline.mean("tokens") if baseline else None
    if not finals or not budget:
        return {}
    target = sum(finals) / len(finals)
    found = {}
    for group in groups:
        reached = [tokens_to_reach(run.curve(HELD_OUT_KEY), target) for run in group.runs]
        known = [tokens for tokens in reached if tokens is not None]
        ratio = sum(known) / len(known) / budget if len(known) == len(reached) else None
        found[group.label] = TokensToBaseline(ratio, len(known))
    return found
