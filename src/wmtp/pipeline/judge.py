"""Judge samples that were drawn anywhere; needs neither a model nor the libraries that run one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from wmtp.config.environment import Environment
from wmtp.config.load import Document
from wmtp.display import Display
from wmtp.errors import DataError
from wmtp.evaluation.judge import keyed_answers, our_task_id, read_samples
from wmtp.evaluation.run import judge_and_report
from wmtp.outputs import claim, locked
from wmtp.pipeline.benchmark import Chosen, choose
from wmtp.report.judged import write_evaluation_page
from wmtp.report.runs import Sample


def judge_samples(
    path: Path,
    document: Document,
    environment: Environment,
    *,
    output: Path,
    ks: tuple[int, ...] = (),
    display: Display | None = None,
) -> dict[str, Any]:
    """Judge anyone's `samples.jsonl` and return the report written into `output`.

    ks: the k of pass@k, of which every task with samples must have as many; default: 1, 10 and 100
    as far as it has. Tasks without samples are counted, named in the report, and in no metric.
    """
    display = display or Display()
    chosen = choose(document)
    section, benchmark, tasks = chosen.section, chosen.benchmark, chosen.tasks
    all_tasks = tasks if section.limit is None else benchmark.tasks()
    samples = read_samples(path, benchmark=benchmark, tasks=all_tasks)
    ids = {task.task_id for task in tasks}
    samples = [s for s in samples if our_task_id(s["task_id"], benchmark) in ids]
    if not samples:
        raise DataError(
            f"{path}: there are no samples of the benchmark's tasks. Expected one JSON object per line."
        )
    ks = ks_of(Counter(our_task_id(sample["task_id"], benchmark) for sample in samples), ks, path)
    settings = {"samples": str(path), **section.model_dump(mode="json")}
    with closing(chosen.judge(environment.sandbox)) as judge, locked(output):
        claim(output, settings, "an evaluation")
        report = judge_and_report(
            samples, benchmark, tasks, ks, judge, output, settings, display, section.extraction
        )
        notes = [*benchmark.notices, *_about_tasks(report["tasks"])]
        write_evaluation_page(output, path.name, notes, _shown(samples, chosen))
    for note in notes:
        display.say(note)
    return report


def _shown(samples: list[dict[str, Any]], chosen: Chosen) -> Iterator[Sample]:
    """Yield the samples as a page shows them."""
    tasks = {task.task_id: task for task in chosen.tasks}
    for (task_id, sample_id), answer in keyed_answers(samples, tasks, chosen.benchmark).items():
        yield Sample(task_id, answer.text, sample_id, tasks[task_id].prompt)


def ks_of(per_task: Counter[str], wanted: tuple[int, ...], path: Path) -> tuple[int, ...]:
    """Return `wanted`, or where it is empty the usual k that every task has samples for.

    per_task: the number of samples of each task. A k above one of them is a `DataError`.
    """
    task_id, fewest = min(per_task.items(), key=lambda pair: pair[1])
    if not wanted:
        return tuple(k for k in (1, 10, 100) if k <= fewest)
    if max(wanted) > fewest or min(wanted) < 1:
        raise DataError(
            f"{path}: pass@{max(wanted) if max(wanted) > fewest else min(wanted)} cannot be had: task "
            f"{task_id} has {fewest} samples, and k is 1 to the number of samples. Draw more samples, "
            "or ask for another --k."
        )
    return wanted


def _about_tasks(counts: dict[str, Any]) -> list[str]:
    missing, lines = counts["without_samples"], []
    if missing:
        lines.append(
            f"no samples for {len(missing)} of {len(missing) + counts['with_samples']} tasks (the "
            f"first: {missing[0]}): metrics are over the other {counts['with_samples']}"
        )
    return lines + [f"{len(ids)} tasks: {note}" for note, ids in counts["noted"].items()]
