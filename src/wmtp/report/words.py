"""The report's sentences, built from the verdicts so that they can never say more."""

from __future__ import annotations

from collections.abc import Iterable

from wmtp.report.compare import Comparison
from wmtp.report.groups import BASELINE, SHUFFLED, Group, differing_settings
from wmtp.report.runs import Run
from wmtp.report.text import difference, number, percent, short_number
from wmtp.report.verdicts import MIN_SEEDS, Claim


def headline(comparison: Comparison) -> str:
    """Return the finding in one line."""
    helping = [claim for claim in comparison.claims if claim.helps]
    if helping:
        where = [f"{claim.label} on {claim.benchmark or claim.metric}" for claim in helping]
        return f"Weighting helps: {listed(where)}"
    if len(comparison.groups) == 1:
        return "One algorithm, nothing compared"
    if not comparison.budget.matched:
        return "Budgets differ: no claim"
    if not comparison.claims:
        return "No claim: no results to compare"
    if all(difference.seeds < MIN_SEEDS for difference in comparison.differences):
        return "No claim: too few seeds to tell the algorithms apart"
    return "No sign that weighting helps"


def summary(comparison: Comparison) -> list[str]:
    """Return the paragraph under the title, as sentences."""
    sentences = [_what_was_trained(comparison)]
    for name, rates in comparison.solve_rates.items():
        for group in comparison.groups:
            if group.algorithm == BASELINE or len(comparison.groups) == 1:
                value, interval = percent(rates.get(group.label))
                if interval:
                    sentences.append(
                        f"On {name}, {group.label} passes {value} of the tasks at the first "
                        f"try (95 % interval {interval} %)."
                    )
    for benchmark, verdict in dict.fromkeys((c.benchmark, c.text) for c in comparison.claims):
        alike = [c for c in comparison.claims if (c.benchmark, c.text) == (benchmark, verdict)]
        metric = f"{alike[0].metric} on {benchmark}" if benchmark else alike[0].metric
        each = listed(_against_baseline(comparison, claim) for claim in alike)
        sentences.append(f"Against the baseline in {metric}: {each}. Verdict: {verdict}.")
    if len(comparison.groups) == 1:
        sentences.append(_alone(comparison.groups[0]))
    elif not any(claim.helps for claim in comparison.claims):
        sentences.append("These runs do not show that weighting helps.")
    return sentences


def _against_baseline(comparison: Comparison, claim: Claim) -> str:
    found = comparison.difference(claim.label, BASELINE, claim.metric, claim.benchmark)
    if found is None:
        return claim.label
    value, interval = difference(found)
    span = f" (95 % interval {interval})" if interval else ""
    return f"{claim.label} {value}{span}"


def _what_was_trained(comparison: Comparison) -> str:
    groups, tokens = comparison.groups, list(comparison.budget.tokens.values())
    seeds = sorted({len(group.runs) for group in groups})
    each = f"{seeds[0]} seed{'s' * (seeds[0] > 1)}"
    if len(seeds) > 1:
        each = f"{seeds[0]} to {seeds[-1]} seeds"
    if len(groups) == 1:
        return f"{groups[0].label} was trained with {each} on {short_number(tokens[0])} tokens."
    budget = f"the same budget of {short_number(tokens[0])} tokens"
    if not comparison.budget.matched:
        low, high = short_number(min(tokens)), short_number(max(tokens))
        budget = f"budgets that differ, {low} to {high} tokens"
    return f"{len(groups)} algorithms were trained with {each} each on {budget}."


def _alone(group: Group) -> str:
    run = group.runs[0]
    found = []
    if (ce := run.last("eval/ce/head_0")) is not None:
        found.append(f"{number(ce)} nats per token on held-out text for the next token")
    if (bits := run.last("eval/bits_per_byte")) is not None:
        found.append(f"{number(bits)} bits per byte")
    ends = f"It ends at {listed(found)}. " if found else ""
    return f"{ends}There is no other algorithm to compare it with."


def notes(comparison: Comparison) -> list[str]:
    """Return what a reader must know to trust the tables, one sentence or two each."""
    runs = [run for group in comparison.groups for run in group.runs]
    found = [*_validity(comparison, runs)]
    for benchmark in [name for name, rates in comparison.solve_rates.items() if rates]:
        found += _judging(comparison, benchmark, runs)
    found.append(
        "Cost counts the whole of training; FLOPs include the reference's and the critic's."
    )
    found += _missing(runs)
    return found


def budget_warning(comparison: Comparison) -> str | None:
    """Return the loud sentence about unequal token budgets, or None when they match."""
    if comparison.budget.matched:
        return None
    each = [f"{label} {tokens:,.0f}" for label, tokens in comparison.budget.tokens.items()]
    return (
        f"Budgets differ: trained tokens are {listed(each)}. More than 1 % apart, so differences "
        "may be due to the amount of training; no claim is made."
    )


def _validity(comparison: Comparison, runs: list[Run]) -> Iterable[str]:
    if comparison.budget.matched and len(runs) > 1:
        yield "Token budgets match within 1 %."
    for run in runs:
        if run.summary.status != "complete":
            yield f"{run.summary.name} is not complete (status: {run.summary.status})."
    for group in comparison.groups:
        if differing := differing_settings(run.recipe for run in group.runs):
            yield f"Runs of {group.label} differ in more than their seed: {listed(differing)}."
    recipes = [run.recipe for run in runs]
    if differing := differing_settings(recipes, ignore=("name", "seed", "algorithm")):
        yield f"Settings other than the algorithm differ between runs: {listed(differing)}."
    for group in comparison.groups:
        if group.algorithm == SHUFFLED and group.shuffles:
            yield (
                f"{group.label} gives the weights of {group.shuffles} to the wrong tokens: what it "
                "gains is not due to which tokens are weighed up. It is no other scheme's control."
            )
    if comparison.num_tests:
        yield (
            f"{comparison.num_tests} comparisons, corrected together (Holm). Intervals are 95 %, "
            "over seeds and tasks, each comparison on its own. Weighting helps only if better "
            "than the baseline and than its own weights shuffled."
        )
    else:
        yield (
            "Intervals are 95 % over tasks (held-out loss: over examples); they do not cover the "
            f"choice of the seed. A claim needs at least {MIN_SEEDS} seeds per algorithm."
        )


def _judging(comparison: Comparison, benchmark: str, runs: list[Run]) -> Iterable[str]:
    evaluations = [run.evaluations[benchmark] for run in runs if benchmark in run.evaluations]
    tiers = sorted({evaluation.sandbox or "not recorded" for evaluation in evaluations})
    counts = sorted({len(evaluation.pass_rates()) for evaluation in evaluations})
    tasks = "" if counts == [0] else f" {listed(map(str, counts))} tasks;"
    yield f"{benchmark}:{tasks} programs ran isolated by: {listed(tiers)}."
    settings = [evaluation.settings for evaluation in evaluations]
    if differing := differing_settings(settings, ignore=("checkpoint", "weights", "samples")):
        yield f"{benchmark}: the runs were evaluated with different settings: {listed(differing)}."
    errors = sum(evaluation.outcome_counts.get("error", 0) for evaluation in evaluations)
    if errors:
        yield f"{benchmark}: {errors} samples could not be judged and count as not passed."
    paired = {d.tasks for d in comparison.differences if d.benchmark == benchmark and d.tasks}
    if paired and (len(counts) > 1 or min(paired) < counts[0]):
        yield f"{benchmark}: comparisons use the tasks that all runs share ({min(paired)})."


def _missing(runs: list[Run]) -> Iterable[str]:
    """Say which runs lack which part of the report."""
    parts = {
        "no judged samples": [run for run in runs if not _judged(run)],
        "no held-out loss": [run for run in runs if run.last("eval/ce/head_0") is None],
        "no recorded weights": [run for run in runs if not run.weighed_samples],
        "no recipe": [run for run in runs if not run.recipe],
        "no provenance": [run for run in runs if not run.provenance],
    }
    for part, lacking in parts.items():
        if lacking:
            names = "all runs" if len(lacking) == len(runs) > 1 else None
            yield f"Missing: {part} in {names or listed(run.summary.name for run in lacking)}."


def _judged(run: Run) -> bool:
    return any(evaluation.outcomes for evaluation in run.evaluations.values())


def listed(items: Iterable[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    *first, last = list(items) or [""]
    return f"{', '.join(first)} and {last}" if first else last
