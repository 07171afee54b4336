"""The page of one evaluation that belongs to no run: scores, and outcomes by kind with examples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from wmtp.outputs import atomic_write_text
from wmtp.report import text
from wmtp.report.examples import outcome_section
from wmtp.report.runs import Sample, load_evaluation
from wmtp.report.templates import style, templates

_SHOWN = 5  # examples of each kind


def write_evaluation_page(
    folder: Path, title: str, notes: Sequence[str] = (), samples: Iterable[Sample] = ()
) -> Path:
    """Write `report.html` into the folder of an evaluation; return its path.

    notes: what a reader of the scores should know. samples: those that were judged, where the folder
    does not hold them. Everything that a model wrote is escaped.
    """
    evaluation = load_evaluation(folder)
    evaluation = replace(evaluation, samples=tuple(samples) or evaluation.samples)
    settings = evaluation.settings
    benchmark = str(settings.get("benchmark"))
    metrics = [
        (name, (text.percent(value)[0], f"{text.percent(value)[1]}; n = {value.n}"))
        for name, value in evaluation.metrics.items()
    ]
    page = (
        templates()
        .get_template("judged.html")
        .render(
            title=title,
            css=style(),
            subject=f"{sum(evaluation.outcome_counts.values()):,} samples of "
            f"{next(iter(evaluation.metrics.values())).n} tasks, judged by {benchmark}.",
            weak=evaluation.sandbox == "limits-only",
            benchmark=benchmark,
            metrics=metrics,
            sandbox=evaluation.sandbox,
            extraction=evaluation.extraction,
            notes=notes,
            outcomes=outcome_section(benchmark, benchmark, [evaluation], _SHOWN),
            details=json.dumps(
                {"settings": settings, "provenance": evaluation.provenance},
                indent=2,
                ensure_ascii=False,
            ),
        )
    )
    # Half a surrogate pair is no text that a file can hold, but a model can write it.
    atomic_write_text(folder / "report.html", page.encode("utf-8", "replace").decode("utf-8"))
    return folder / "report.html"
