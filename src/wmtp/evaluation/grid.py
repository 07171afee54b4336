"""One report on samples of several temperatures: the best one for each k, and all the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wmtp.inputs import numbered_jsonl, read_json_object
from wmtp.outputs import atomic_write_json, atomic_write_text


def write_grid_report(
    folder: Path, parts: Mapping[float, Path], settings: dict[str, Any]
) -> dict[str, Any]:
    """Write `report.json` into `folder` from the evaluations in `parts`, one per temperature; return it.

    Each of its metrics is that of the temperature where it is highest, the lowest one of several: an
    optimistic number, as every maximum over estimates is. `temperatures` has for every metric that
    temperature (`best`) and the metric at each (`all`). Everything else is of the best one for the
    first metric; its samples, with their temperature, and its outcomes are written beside the report.
    """
    reports = {t: read_json_object(part / "report.json") for t, part in sorted(parts.items())}
    names = next(iter(reports.values()))["metrics"]

    def at(temperature: float, name: str) -> dict[str, Any]:
        metric: dict[str, Any] = reports[temperature]["metrics"][name]
        return metric

    best = {name: max(reports, key=lambda t: at(t, name)["value"]) for name in names}
    first = best[next(iter(names))]
    report = {
        **reports[first],
        "settings": settings,
        "metrics": {name: at(t, name) for name, t in best.items()},
        "temperatures": {
            name: {"best": best[name], "all": {f"{t:g}": at(t, name) for t in reports}}
            for name in names
        },
    }
    samples = [
        json.dumps({**record, "temperature": first}) + "\n"
        for _, record in numbered_jsonl(parts[first] / "samples.jsonl")
    ]
    atomic_write_text(folder / "samples.jsonl", "".join(samples))
    outcomes = (parts[first] / "outcomes.jsonl").read_text(encoding="utf-8")
    atomic_write_text(folder / "outcomes.jsonl", outcomes)
    atomic_write_json(folder / "report.json", report)
    return report
