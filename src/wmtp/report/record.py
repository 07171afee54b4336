"""The comparison as plain JSON values: what `report.json` holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from wmtp.report import words
from wmtp.report.compare import Comparison
from wmtp.report.groups import Group
from wmtp.report.runs import Run


def as_record(comparison: Comparison) -> dict[str, Any]:
    """Return every number and sentence of the report, with settings and provenance of each run."""
    return {
        "headline": words.headline(comparison),
        "summary": words.summary(comparison),
        "notes": words.notes(comparison),
        "budget": asdict(comparison.budget),
        "algorithms": [_algorithm(comparison, group) for group in comparison.groups],
        "differences": [asdict(difference) for difference in comparison.differences],
        "num_comparisons": comparison.num_tests,
        "claims": [asdict(claim) for claim in comparison.claims],
        "runs": [_run(run) for group in comparison.groups for run in group.runs],
    }


def _algorithm(comparison: Comparison, group: Group) -> dict[str, Any]:
    def of_group(table: dict[str, Any]) -> dict[str, Any] | None:
        value = table.get(group.label)
        return None if value is None else asdict(value)

    return {
        "label": group.label,
        "algorithm": group.algorithm,
        "seeds": list(group.seeds),
        "runs": [run.summary.name for run in group.runs],
        "pass@1": {name: of_group(rates) for name, rates in comparison.solve_rates.items()},
        "held_out": {key: of_group(values) for key, values in comparison.held_out.items()},
        "tokens": comparison.budget.tokens[group.label],
        "flops": group.mean("flops"),
        "flops_ratio": comparison.flops_ratio.get(group.label),
        "tokens_to_baseline": of_group(comparison.tokens_to_baseline),
        "seconds": group.mean("seconds"),
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        **asdict(run.summary),
        "recipe": run.recipe,
        "provenance": run.provenance,
        "evaluations": {
            name: {
                "metrics": {key: asdict(metric) for key, metric in evaluation.metrics.items()},
                "by_difficulty": {k: asdict(rate) for k, rate in evaluation.by_difficulty.items()},
                "outcomes": evaluation.outcome_counts,
                "sandbox": evaluation.sandbox,
                "settings": evaluation.settings,
                "provenance": evaluation.provenance,
            }
            for name, evaluation in run.evaluations.items()
        },
    }
