"""One evaluation: samples, outcomes, report, joined by files; every stage resumes."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wmtp.display import Display
from wmtp.errors import SandboxError
from wmtp.evaluation.benchmark import Benchmark, Judge, Task
from wmtp.evaluation.extraction import Extraction
from wmtp.evaluation.judge import judge
from wmtp.evaluation.metrics import Interval, clustered_interval, pass_at_k
from wmtp.outputs import atomic_write_json
from wmtp.provenance import provenance

if TYPE_CHECKING:  # it imports torch, which judging does without
    from wmtp.evaluation.held_out import HeldOutSums


def judge_and_report(
    samples: list[dict[str, Any]],
    benchmark: Benchmark[Any],
    tasks: list[Task],
    ks: tuple[int, ...],
    sandbox: Judge,
    folder: Path,
    settings: dict[str, Any],
    display: Display,
    extraction: Extraction | None = None,
) -> dict[str, Any]:
    """Judge samples, write `outcomes.jsonl` and `report.json` into `folder`, return the report.

    Metrics are over the tasks that have samples; the report counts and names those that have none.
    extraction: the rule that finds the code in a sample; default: the benchmark's. Samples that end
    in `error` are no score: a `SandboxError` names the first, and there is no report until another
    call has judged them.
    """
    with display.stage("judge") as update:
        outcomes = judge(
            samples,
            benchmark,
            sandbox=sandbox,
            tasks=tasks,
            outcomes_path=folder / "outcomes.jsonl",
            extraction=extraction,
            progress=update,
        )
    _refuse_errors(outcomes, folder)
    report = {
        "settings": settings,
        "provenance": provenance(),
        "sandbox": sandbox.tier,
        "extraction": extraction or benchmark.extraction,
        "tasks": task_counts(outcomes, tasks),
        "notices": benchmark.notices,
        "metrics": _as_json(pass_metrics(outcomes, ks)),
        "outcomes": dict(Counter(outcome["outcome"] for outcome in outcomes)),
        "by_difficulty": _as_json(_by_difficulty(outcomes, tasks)),
    }
    atomic_write_json(folder / "report.json", report)
    return report


def task_counts(outcomes: list[dict[str, Any]], tasks: list[Task]) -> dict[str, Any]:
    """Return how many of the tasks have samples, which have none, and what is noted about any."""
    judged = {outcome["task_id"] for outcome in outcomes}
    noted: dict[str, list[str]] = defaultdict(list)
    for task in tasks:
        if task.note and task.task_id in judged:
            noted[task.note].append(task.task_id)
    return {
        "with_samples": len(judged),
        "without_samples": [task.task_id for task in tasks if task.task_id not in judged],
        "noted": dict(noted),
    }


def _refuse_errors(outcomes: list[dict[str, Any]], folder: Path) -> None:
    errors = [outcome for outcome in outcomes if outcome["outcome"] == "error"]
    if errors:
        first = errors[0]
        raise SandboxError(
            f"{len(errors)} of {len(outcomes)} samples could not be judged; the first is sample "
            f"{first['sample_id']} of task {first['task_id']} ({first['detail']}). All others are "
            f"in {folder / 'outcomes.jsonl'}. Run the same command again to judge the rest; where "
            "that does not help, `wmtp doctor` shows the state of the sandbox."
        )


def pass_metrics(outcomes: list[dict[str, Any]], ks: tuple[int, ...]) -> dict[str, Interval]:
    """Return unbiased `pass@k` with intervals over tasks, for every k."""
    by_task: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        by_task[outcome["task_id"]].append(outcome["outcome"] == "passed")
    return {
        f"pass@{k}": clustered_interval(
            np.array([pass_at_k(len(passed), sum(passed), k) for passed in by_task.values()])
        )
        for k in ks
    }


def _by_difficulty(outcomes: list[dict[str, Any]], tasks: list[Task]) -> dict[str, Interval]:
    level = {task.task_id: task.difficulty for task in tasks if task.difficulty is not None}
    groups: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for outcome in outcomes:
        if outcome["task_id"] in level:
            groups[level[outcome["task_id"]]].append(outcome)
    return {f"{key:g}": pass_metrics(groups[key], (1,))["pass@1"] for key in sorted(groups)}


def write_held_out_report(
    sums: HeldOutSums, folder: Path, settings: dict[str, Any], per_head: dict[str, Any]
) -> None:
    """Write `report.json` of a held-out loss into `folder`, with the analysis of each head."""
    report = {
        "settings": settings,
        "provenance": provenance(),
        "metrics": _as_json(sums.intervals()),
        "per_head": per_head,
    }
    atomic_write_json(folder / "report.json", report)


def _as_json(intervals: dict[str, Interval]) -> dict[str, dict[str, float]]:
    return {
        name: {"value": i.value, "low": i.low, "high": i.high, "n": i.n}
        for name, i in intervals.items()
    }
