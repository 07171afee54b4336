"""Writes the page of an audit: scores of weights against known faults, and programs in colour."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wmtp.evaluation.metrics import Interval
from wmtp.outputs import atomic_write_text
from wmtp.report import text
from wmtp.report.heatmap import LEVELS, HeatMap, heat_map_of
from wmtp.report.runs import Estimate, WeighedSample
from wmtp.report.svg import colours
from wmtp.report.templates import style, templates

WEIGHTS, SHUFFLED, CHANCE = "weights", "shuffled", "chance"
_TITLES = {
    "auroc": "AUROC",
    "top_1": "top-1",
    "top_5": "top-5",
    "precision": "precision",
}
_SHOWN = 12

Scores = dict[str, dict[str, Interval]]
ProgramKey = tuple[str, str]


@dataclass(frozen=True)
class AuditedRun:
    """One run's audit.

    left_out: programs without a fault, or with nothing else, within the run's maximal length. at_end:
    programs among the samples that only lack something at their end, and have no score. scores: by
    "SIGNAL/head_K", then by name of the score. by_source: the same under head 0 for each source of
    programs, empty when there is one. samples, auroc: of each program, by task and text, the weights
    of its tokens, and how well head 0's weights find the fault.
    """

    name: str
    algorithm: str
    left_out: int
    at_end: int
    scores: Scores
    by_source: dict[str, Scores]
    samples: dict[ProgramKey, WeighedSample]
    auroc: dict[ProgramKey, float]

    def record(self) -> dict[str, Any]:
        """Return what `audit.json` says of the run."""
        return {
            "algorithm": self.algorithm,
            "left_out": self.left_out,
            "at_end": self.at_end,
            "metrics": _as_json(score_rows(self.scores)),
            "by_source": {
                source: _as_json(score_rows(found)) for source, found in self.by_source.items()
            },
        }

    @property
    def suspicions(self) -> list[str]:
        """Return what is odd: shuffled weights that find faults, which they cannot."""
        odd = []
        for name, found in self.scores.items():
            interval = found["auroc"]
            if name.startswith(f"{SHUFFLED}/") and not interval.low <= 0.5 <= interval.high:
                odd.append(
                    f"{self.name}: AUROC of {name} is {interval.value:.3f}, and its interval from "
                    f"{interval.low:.3f} to {interval.high:.3f} leaves out 0.5. One in 20 does by chance."
                )
        return odd


def score_rows(scores: Scores, head: int | None = None) -> list[tuple[str, dict[str, Interval]]]:
    """Return scores in the order for reading: weights, signals, shuffled, chance, head by head."""
    last = {SHUFFLED: 1, CHANCE: 2}

    def rank(name: str) -> tuple[int, int]:
        signal, _, number = name.partition("/head_")
        return int(number), last.get(signal, -1 if signal == WEIGHTS else 0)

    chosen = (n for n in scores if head is None or n.endswith(f"/head_{head}"))
    return [(name, scores[name]) for name in sorted(chosen, key=rank)]


def audit_table(record: dict[str, Any]) -> str:
    """Return what `audit.json` holds as lines for people."""
    programs = record["programs"]
    lines = [
        f"{programs['audited']} programs with known faults; left out: {programs['seen_in_training']} of "
        f"problems trained on, {programs['without_known_fault']} examples without a known fault"
    ]
    columns = "".join(f"{title:>24}" for title in _TITLES.values())
    for name, run in record["runs"].items():
        lines += [
            f"{name} ({run['algorithm']}): faults should weigh less; 1 is perfect",
            f"{'':20}{columns}",
        ]
        rows: dict[str, str] = {}
        for metric, m in run["metrics"].items():
            signal, _, head = metric.split("/")
            interval = "" if signal == CHANCE else f" [{m['low']:.3f}, {m['high']:.3f}]"
            label = f"  {signal}, {head.replace('_', ' ')}"
            rows[label] = rows.get(label, "") + f"{m['value']:.3f}{interval}".rjust(24)
        lines += [f"{label:<20}{cells}" for label, cells in rows.items()]
        if run["left_out"]:
            lines.append(
                f"  {run['left_out']} programs left out: the fault is beyond the maximal length"
            )
        if run["at_end"]:
            lines.append(
                f"  {run['at_end']} programs without a score: they only lack something at their end "
                "(--end-token)"
            )
    return "\n".join(lines)


def write_audit_page(path: Path, runs: Sequence[AuditedRun], record: dict[str, Any]) -> None:
    """Write the self-contained page. Everything that comes from data or runs is escaped."""
    rendered = (
        templates()
        .get_template("audit.html")
        .render(
            css=style(),
            data=record["settings"]["data"],
            programs=record["programs"],
            end_token=record["settings"]["end_token"],
            titles=_TITLES,
            runs=[_tables(run) for run in runs],
            suspicions=[line for run in runs for line in run.suspicions],
            heat=_heat(runs),
            levels=LEVELS,
            colours=colours([run.name for run in runs]),
            details=json.dumps(
                {key: record[key] for key in ("settings", "provenance")},
                indent=2,
                ensure_ascii=False,
            ),
        )
    )
    atomic_write_text(path, rendered.encode("utf-8", "replace").decode("utf-8"))


def _tables(run: AuditedRun) -> dict[str, Any]:
    rows = score_rows(run.scores)
    return {
        "name": run.name,
        "algorithm": run.algorithm,
        "left_out": run.left_out,
        "at_end": run.at_end,
        "n": next(iter(run.scores.values()))["auroc"].n,
        "first": [_row(name, found) for name, found in rows if name.endswith("/head_0")],
        "further": [_row(name, found) for name, found in rows if not name.endswith("/head_0")],
        "by_source": [
            (source, _row(name, found))
            for source, scores in run.by_source.items()
            for name, found in score_rows(scores, head=0)
            if not name.startswith(f"{SHUFFLED}/")
        ],
    }


def _row(name: str, found: dict[str, Interval]) -> dict[str, Any]:
    signal, _, head = name.partition("/head_")
    cells = []
    for score, interval in found.items():
        estimate = Estimate(interval.value, interval.low, interval.high, interval.n)
        if signal == CHANCE:
            estimate = Estimate(interval.value)
        cells.append(text.estimate(estimate) if score == "auroc" else text.percent(estimate))
    size = next(iter(found.values())).n
    return {"signal": signal, "head": head, "cells": cells, "n": size}


def _heat(runs: Sequence[AuditedRun]) -> HeatMap:
    """Return programs from the best found fault to the worst, evenly spaced, under every run.

    Then one that has no score, for it only lacks something at its end.
    """
    first = runs[0].auroc
    ranked = sorted(first, key=lambda key: -first[key])
    num = min(_SHOWN, len(ranked))
    chosen = [ranked[round(i * (len(ranked) - 1) / max(1, num - 1))] for i in range(num)]
    chosen += [key for key in runs[0].samples if key not in first][:1]
    views = [{run.name: run.samples[key] for run in runs if key in run.samples} for key in chosen]
    scores = [[f"{r.auroc[key]:.2f} ({r.name})" for r in runs if key in r.auroc] for key in chosen]
    notes = [f"AUROC {', '.join(of)}" if of else "something is missing at the end" for of in scores]
    return heat_map_of(views, notes)


def _as_json(scores: list[tuple[str, dict[str, Interval]]]) -> dict[str, dict[str, float]]:
    return {
        f"{name.partition('/')[0]}/{score}/{name.partition('/')[2]}": asdict(interval)
        for name, found in scores
        for score, interval in found.items()
    }
