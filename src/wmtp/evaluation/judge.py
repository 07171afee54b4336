"""From samples to outcomes: every completion becomes a program and runs in the sandbox."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

from wmtp.errors import DataError, near_match
from wmtp.evaluation.answers import FinalAnswer
from wmtp.evaluation.benchmark import Benchmark, Judge, Task
from wmtp.evaluation.extraction import Extraction, extract
from wmtp.inputs import numbered_jsonl
from wmtp.outputs import append_jsonl, atomic_write_text
from wmtp.sandbox import AnyProgram, StdioProgram

Key = tuple[str, int | str]


@dataclass(frozen=True, slots=True)
class Answer:
    """A sample's text. whole: it is a program by itself (`solution`), not a completion."""

    text: str
    whole: bool = False


def judge(
    samples: Iterable[dict[str, Any]],
    benchmark: Benchmark[Any],
    *,
    sandbox: Judge,
    tasks: Iterable[Task] | None = None,
    outcomes_path: str | Path | None = None,
    extraction: Extraction | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Return one outcome per sample, in the order of the samples.

    samples: `{task_id, completion, sample_id?}`; without a `sample_id`, a sample's place among
    those of its task; `solution` in place of `completion` is a whole program. tasks: those of the
    benchmark, where they are at hand. extraction: the rule that finds the code in a sample; default:
    the benchmark's. An outcome is `{task_id, sample_id, outcome, seconds, detail, sha256}` with
    the outcomes of `wmtp.sandbox.Verdict` and the hash of program, tests and limits. outcomes_path:
    a JSON-lines file to which outcomes are appended as they come; what it already holds is not
    judged again while that hash is the same, and removed otherwise. An `error`, which is no verdict, is
    returned and never written: the next call tries it again. progress: called with the
    numbers of samples done and in all. A task that the benchmark does not have is a `DataError`.
    """
    by_id = _by_id(tasks, benchmark)
    wanted = keyed_answers(samples, by_id, benchmark)
    rule = extraction or benchmark.extraction

    def program(key: Key) -> AnyProgram | FinalAnswer:
        return program_of(wanted[key], by_id[key[0]], benchmark, rule)

    hashes = {key: _hash(program(key)) for key in wanted}
    done: dict[Key, dict[str, Any]] = {}
    with ExitStack() as stack:
        lines = None
        if outcomes_path is not None:
            done = _reusable(Path(outcomes_path), hashes)
            lines = stack.enter_context(append_jsonl(outcomes_path))
        left = _by_task(key for key in wanted if key not in done)
        if progress is not None:
            progress(len(done), len(wanted))
        for index, verdict in sandbox.judge(map(program, left)):
            task_id, sample_id = left[index]
            outcome = {
                "task_id": task_id,
                "sample_id": sample_id,
                "outcome": verdict.outcome,
                "seconds": round(verdict.seconds, 4),
                "detail": verdict.detail,
                "sha256": hashes[left[index]],
            }
            if lines is not None and verdict.outcome != "error":
                lines.write(outcome)
            done[left[index]] = outcome
            if progress is not None:
                progress(len(done), len(wanted))
    return [done[key] for key in wanted]


def program_of(
    answer: Answer, task: Task, benchmark: Benchmark[Any], rule: Extraction
) -> AnyProgram | FinalAnswer:
    """Return what decides whether the code that `rule` finds in `answer` is right."""
    found = extract(rule, task.code_prefix, answer.text, benchmark.stop, whole=answer.whole)
    return benchmark.program(replace(task, code_prefix=found.before), found.code)


def read_samples(
    path: str | Path,
    required: tuple[str, ...] = ("task_id", "completion"),
    benchmark: Benchmark[Any] | None = None,
    tasks: Iterable[Task] | None = None,
) -> list[dict[str, Any]]:
    """Return the samples of a JSON-lines file: `{task_id, completion, sample_id?}` and what else.

    A name that ends in .gz is decompressed. Where a record has a `solution`, a whole program, no
    `completion` is needed. A line that is malformed or lacks a `required` field is a `DataError` that
    names it; so are, given the `benchmark`, a task that it does not have and a sample_id given twice.
    """
    samples, places = [], []
    for number, record in numbered_jsonl(path):
        for field in (*required, "solution", "sample_id"):
            if field == "completion" and field not in record and "solution" in record:
                continue
            if field not in record and field in required:
                expected = ", ".join(f'"{name}": ...' for name in required)
                raise DataError(
                    f"{path}:{number}: there is no {field!r}.{near_match(field, record)} "
                    f"Expected {{{expected}}}. Mend or remove this line."
                )
            kinds = (int, str) if field == "sample_id" else (str,)
            if type(record.get(field, "")) not in kinds:  # true is an int, too
                raise DataError(
                    f"{path}:{number}: {field} is {record[field]!r}. Expected "
                    f"{'an integer or a string' if field == 'sample_id' else 'a string'}."
                )
        samples.append(record)
        places.append(f"{path}:{number}")
    if benchmark is not None:
        keyed_answers(samples, _by_id(tasks, benchmark), benchmark, places)
    return samples


def our_task_id(task_id: str, benchmark: Benchmark[Any]) -> str:
    """Return the benchmark's own id for a task that others may call by another one."""
    for theirs, ours in benchmark.also_known_as:
        if task_id.startswith(theirs):
            return ours + task_id.removeprefix(theirs)
    return task_id


def _hash(program: AnyProgram | FinalAnswer) -> str:
    parts: list[Any] = list(astuple(program))
    if isinstance(program, StdioProgram):
        parts[1] = _hash_of_cases(program.cases)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@lru_cache(maxsize=1)
def _hash_of_cases(cases: tuple[tuple[str, str], ...]) -> str:
    """Return the hash of megabytes that the samples of a task share."""
    return hashlib.sha256(json.dumps(cases).encode()).hexdigest()


def _reusable(path: Path, hashes: dict[Key, str]) -> dict[Key, dict[str, Any]]:
    """Return the outcomes in `path` of the very programs with `hashes`; the others are removed."""
    with append_jsonl(path):
        pass  # mends a last line that a kill cut off
    records = read_samples(path, required=("task_id", "sample_id", "outcome"))
    found = {(record["task_id"], record["sample_id"]): record for record in records}
    kept = {k: found[k] for k in hashes if k in found and found[k].get("sha256") == hashes[k]}
    if len(kept) < len(records):
        atomic_write_text(path, "".join(json.dumps(record) + "\n" for record in kept.values()))
    return kept


def _by_task(keys: Iterable[Key]) -> list[Key]:
    """Return the keys with those of one task together: its tests are made ready once for them."""
    found: dict[str, list[Key]] = defaultdict(list)
    for key in keys:
        found[key[0]].append(key)
    return [key for group in found.values() for key in group]


def _by_id(tasks: Iterable[Task] | None, benchmark: Benchmark[Any]) -> dict[str, Task]:
    return {task.task_id: task for task in (benchmark.tasks() if tasks is None else tasks)}


def keyed_answers(
    samples: Iterable[dict[str, Any]],
    tasks: dict[str, Task],
    benchmark: Benchmark[Any],
    places: Iterable[str] = repeat("the samples"),
) -> dict[Key, Answer]:
    """Return the answer of each (task_id, sample_id); `places` say where each sample stands."""
    wanted: dict[Key, Answer] = {}
    seen: dict[str, int] = defaultdict(int)
    for sample, place in zip(samples, places, strict=False):
        task_id = our_task_id(sample["task_id"], benchmark)
        if task_id not in tasks:
            raise DataError(
                f"{place}: this benchmark has no task {task_id!r}."
                f"{near_match(task_id, tasks)} Judge samples with the benchmark they were drawn for."
            )
        key = (task_id, sample.get("sample_id", seen[task_id]))
        seen[task_id] += 1
        if key in wanted:
            raise DataError(
                f"{place}: task {task_id!r} with sample_id {key[1]!r} twice. Give each "
                "sample of a task its own sample_id, or leave all of them out."
            )
        whole = "completion" not in sample
        wanted[key] = Answer(sample["solution" if whole else "completion"], whole)
    return wanted
