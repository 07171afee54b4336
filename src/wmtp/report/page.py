"""Writes the report: one self-contained HTML page, and the same numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from wmtp.outputs import atomic_write_json, atomic_write_text
from wmtp.report import text, words
from wmtp.report.compare import BITS_KEY, HELD_OUT_KEY, Comparison, compare_runs
from wmtp.report.examples import outcome_sections
from wmtp.report.groups import BASELINE, SHUFFLED, Group
from wmtp.report.heatmap import LEVELS, heat_map
from wmtp.report.plots import draw_plots
from wmtp.report.record import as_record
from wmtp.report.runs import HeadRow, load_runs
from wmtp.report.svg import colours
from wmtp.report.templates import style, templates
from wmtp.report.verdicts import HELD_OUT, Difference


def write_report(
    runs: Sequence[str | Path], output: str | Path, title: str = "Weighted multi-token prediction"
) -> Path:
    """Write `report.html` and `report.json` into the folder `output`; return the path of the page.

    `runs` are run folders, one or more. A folder that is no run, or a malformed file in it, is a
    `DataError`; an output that cannot be written is an `OutputError`.
    """
    comparison = compare_runs(load_runs(runs))
    page = Path(output) / "report.html"
    # Half a surrogate pair is no text that a file can hold, but a model can write it.
    rendered = render_page(comparison, title).encode("utf-8", "replace").decode("utf-8")
    atomic_write_json(page.with_name("report.json"), {"title": title, **as_record(comparison)})
    atomic_write_text(page, rendered)
    return page


def render_page(comparison: Comparison, title: str) -> str:
    """Return the page as HTML. Everything that comes from a run is escaped."""
    groups = comparison.groups
    return (
        templates()
        .get_template("page.html")
        .render(
            title=title,
            css=style(),
            headline=words.headline(comparison),
            summary=words.summary(comparison),
            warning=words.budget_warning(comparison),
            notes=words.notes(comparison),
            colours=colours(group.label for group in groups),
            solved=[_solved_table(comparison, name) for name in _judged(comparison)],
            costs=[_cost_row(comparison, group) for group in groups],
            metrics=[_metric_table(comparison, name) for name in comparison.benchmarks],
            heads=_head_tables(groups),
            plots=[(plot, Markup(plot.svg)) for plot in draw_plots(comparison)],
            heat=heat_map(groups),
            levels=LEVELS,
            outcomes=outcome_sections(comparison),
            settings=[(run.summary.name, _settings(run)) for group in groups for run in group.runs],
            alone=len(groups) == 1,
        )
    )


def _judged(comparison: Comparison) -> list[str]:
    return [name for name in comparison.benchmarks if comparison.solve_rates[name]]


def _solved_table(comparison: Comparison, benchmark: str) -> dict[str, Any]:
    """Return the rows of one benchmark's table: who solves how much, and what that shows."""
    claims = {c.label: c for c in comparison.claims if c.benchmark == benchmark}
    rows = []
    for group in comparison.groups:
        rate = comparison.solve_rates[benchmark].get(group.label)
        remark = {
            BASELINE: "every token weighs 1",
            SHUFFLED: f"control: weights of {group.shuffles or 'a scheme'}, on the wrong tokens",
        }.get(group.algorithm, "")
        claim = claims.get(group.label)
        differences = [
            comparison.difference(group.label, algorithm, benchmark=benchmark)
            for algorithm in (BASELINE, SHUFFLED)
        ]
        rows.append(
            {
                "label": group.label,
                "seeds": len(group.runs),
                "rate": text.percent(rate),
                "differences": [_difference(found) for found in differences],
                "verdict": claim.text if claim else remark,
                "helps": claim.helps if claim else False,
            }
        )
    return {"benchmark": benchmark, "rows": rows}


def _cost_row(comparison: Comparison, group: Group) -> dict[str, Any]:
    """Return one row of the table of held-out loss and cost."""
    reached = comparison.tokens_to_baseline.get(group.label)
    to_baseline = (text.MISSING, "")
    if group.algorithm == BASELINE and reached:
        to_baseline = ("1", "")
    elif reached and reached.ratio is not None:
        to_baseline = (text.number(reached.ratio, 2), "")
    elif reached:
        to_baseline = (
            "never",
            f"{reached.reached} of {len(group.runs)} seeds" * bool(reached.reached),
        )
    ratio = comparison.flops_ratio.get(group.label)
    peak = [run.summary.peak_memory_bytes for run in group.runs]
    return {
        "label": group.label,
        "ce": text.estimate(comparison.held_out[HELD_OUT_KEY].get(group.label)),
        "difference": _difference(comparison.difference(group.label, BASELINE, metric=HELD_OUT)),
        "bits": text.estimate(comparison.held_out[BITS_KEY].get(group.label)),
        "tokens": text.short_number(comparison.budget.tokens[group.label]),
        "flops": (
            text.short_number(group.mean("flops")),
            "" if ratio is None or len(comparison.groups) == 1 else f"{ratio:.2f} ×",
        ),
        "to_baseline": to_baseline,
        "seconds": text.duration(group.mean("seconds")),
        "memory": text.byte_size(max((p for p in peak if p is not None), default=None)),
    }


def _difference(found: Difference | None) -> tuple[str, str, str]:
    """Return a difference, its interval and its standing as texts."""
    return (*text.difference(found), found.standing if found else "")


def _metric_table(comparison: Comparison, benchmark: str) -> dict[str, Any]:
    """Return all metrics of a benchmark, one column per run."""
    runs = [r for g in comparison.groups for r in g.runs if benchmark in r.evaluations]
    names = dict.fromkeys(name for run in runs for name in run.evaluations[benchmark].metrics)
    rows = [
        (name, [_metric(name, run.evaluations[benchmark].metrics.get(name)) for run in runs])
        for name in names
    ]
    return {"benchmark": benchmark, "runs": [run.summary.name for run in runs], "rows": rows}


def _head_tables(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return for each held-out set of each run what its heads do with groups of tokens."""
    tables = []
    for run in (run for group in groups for run in group.runs):
        for name, evaluation in run.evaluations.items():
            rows = [
                (head.replace("_", " "), group, _head_row(row))
                for head, found in evaluation.per_head.items()
                for group, row in [
                    ("all", found.all),
                    *found.token_class.items(),
                    *((f"place {key}", row) for key, row in found.position.items()),
                    *((f"difficulty {key} of 4", row) for key, row in found.difficulty.items()),
                ]
            ]
            if rows:
                tables.append({"title": f"{run.summary.name}, {name}", "rows": rows})
    return tables


def _head_row(row: HeadRow) -> list[str]:
    shares = (row.top1, row.top5, row.calibration_error)
    return [f"{row.n:,}", f"{row.ce:.3f}", *(f"{100 * share:.1f} %" for share in shares)]


def _metric(name: str, value: Any) -> tuple[str, str]:
    shown, interval = text.percent(value) if name.startswith("pass@") else text.estimate(value)
    size = f"n = {value.n:,}" if value is not None and value.n is not None else ""
    return shown, "; ".join(part for part in (interval, size) if part)


def _settings(run: Any) -> dict[str, str]:
    """Return the texts that say how a run and its evaluations were made."""
    shown = dict(run.settings_text)
    if run.provenance:
        shown["provenance"] = json.dumps(run.provenance, indent=2, ensure_ascii=False)
    for name, evaluation in run.evaluations.items():
        how = {"settings": evaluation.settings, "provenance": evaluation.provenance}
        shown[f"evaluation: {name}"] = json.dumps(how, indent=2, ensure_ascii=False)
    return shown
