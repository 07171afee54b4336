"""From samples to outcomes: every completion becomes a program and runs in the sandbox."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wmtp.errors import DataError, near_match
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.outputs import append_jsonl, numbered_jsonl, read_jsonl
from wmtp.sandbox import Program, Sandbox

Key = tuple[str, int | str]


def judge(
    samples: Iterable[dict[str, Any]],
    benchmark: Benchmark[Any],
    *,
    sandbox: Sandbox,
    outcomes_path: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Return one outcome per sample, in the order of the samples.

    samples: `{task_id, completion, sample_id?}`; without a `sample_id`, a sample's place among
    those of its task. An outcome is `{task_id, sample_id, outcome, seconds, detail}` with the
    outcomes of `wmtp.sandbox.Verdict`. outcomes_path: a JSON-lines file to which outcomes are
    appended as they come; what it already holds is not judged again. An `error`, which is no
    verdict, is returned and never written: the next call tries it again. progress: called with the
    numbers of samples done and in all. A task that the benchmark does not have is a `DataError`.
    """
    tasks = {task.task_id: task for task in benchmark.tasks()}
    wanted = _keyed(samples, tasks)
    done: dict[Key, dict[str, Any]] = {}
    with ExitStack() as stack:
        lines = None
        if outcomes_path is not None:
            lines = stack.enter_context(append_jsonl(outcomes_path))
            found = {
                (o["task_id"], o["sample_id"]): o
                for o in read_jsonl(outcomes_path)
                if o["outcome"] != "error"
            }
            done = {key: found[key] for key in wanted if key in found}
        left = [key for key in wanted if key not in done]
        if progress is not None:
            progress(len(done), len(wanted))
        for index, verdict in sandbox.judge(_programs(left, wanted, tasks, benchmark)):
            task_id, sample_id = left[index]
            outcome = {
                "task_id": task_id,
                "sample_id": sample_id,
                "outcome": verdict.outcome,
                "seconds": round(verdict.seconds, 4),
                "detail": verdict.detail,
            }
            if lines is not None and verdict.outcome != "error":
                lines.write(outcome)
            done[left[index]] = outcome
            if progress is not None:
                progress(len(done), len(wanted))
    return [done[key] for key in wanted]


def read_samples(path: str | Path) -> list[dict[str, Any]]:
    """Return the samples of a JSON-lines file: `{task_id, completion, sample_id?}` and what else.

    A malformed line is a `DataError` that names it.
    """
    samples = []
    for number, record in numbered_jsonl(path):
        for field, kinds in (("task_id", str), ("completion", str), ("sample_id", (int, str))):
            if field not in record and field != "sample_id":
                raise DataError(
                    f"{path}:{number}: there is no {field!r}.{near_match(field, record)} "
                    'Expected {"task_id": "...", "completion": "..."}.'
                )
            if not isinstance(record.get(field, 0 if field == "sample_id" else ""), kinds):
                raise DataError(
                    f"{path}:{number}: {field} is {record[field]!r}. Expected "
                    f"{'an integer or a string' if field == 'sample_id' else 'a string'}."
                )
        samples.append(record)
    return samples


def _keyed(samples: Iterable[dict[str, Any]], tasks: dict[str, Task]) -> dict[Key, str]:
    """Return the completion of each (task_id, sample_id)."""
    wanted: dict[Key, str] = {}
    seen: dict[str, int] = defaultdict(int)
    for sample in samples:
        task_id = sample["task_id"]
        if task_id not in tasks:
            raise DataError(
                f"the samples have task {task_id!r}, which this benchmark lacks."
                f"{near_match(task_id, tasks)} Judge them with the benchmark they were drawn for."
            )
        key = (task_id, sample.get("sample_id", seen[task_id]))
        seen[task_id] += 1
        if key in wanted:
            raise DataError(
                f"the samples have task {task_id!r} with sample_id {key[1]!r} twice. Give each "
                "sample of a task its own sample_id, or leave all of them out."
            )
        wanted[key] = sample["completion"]
    return wanted


def _programs(
    keys: list[Key],
    completions: dict[Key, str],
    tasks: dict[str, Task],
    benchmark: Benchmark[Any],
) -> Iterator[Program]:
    for key in keys:
        yield benchmark.program(tasks[key[0]], completions[key])
