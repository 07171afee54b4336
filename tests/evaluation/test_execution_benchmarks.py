"""Registered benchmarks of functions on their real files: references pass, stubs and bugs do not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.evaluation.extraction import Extraction
from wmtp.evaluation.judge import Answer, judge, our_task_id, program_of, read_samples
from wmtp.evaluation.metrics import pass_at_k
from wmtp.registry import BENCHMARKS
from wmtp.sandbox import Limits, Program, Sandbox, probe

FILES = {
    "humaneval": ("humaneval/HumanEval.jsonl.gz", 164),
    "humanevalplus": ("evalplus/HumanEvalPlus.jsonl.gz", 164),
    "mbpp": ("mbpp/mbpp.jsonl", 500),
    "mbppplus": ("evalplus/MbppPlus.jsonl.gz", 378),
    "quixbugs": ("quixbugs/quixbugs_dev.jsonl", 20),
}
STUB = "    return None\n"
NOTABLE = {"mbppplus": ("mbppplus/255", "mbppplus/126")}  # large answers, the name of a builtin


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("auto" if probe().tier else "limits-only", workers=2) as sandbox:
        yield sandbox


def load(name: str, folder: Path) -> tuple[Benchmark[Any], list[Task]]:
    named = BENCHMARKS.get(name)
    benchmark = named(named.Config(path=str(folder / FILES[name][0])))
    tasks = benchmark.tasks()
    assert len(tasks) == len({task.task_id for task in tasks}) == FILES[name][1]
    return benchmark, tasks


def outcomes(
    sandbox: Sandbox,
    benchmark: Benchmark[Any],
    tasks: list[Task],
    text: str | None = None,
    extraction: Extraction | None = None,
) -> Counter[str]:
    samples = [{"task_id": t.task_id, "completion": text or t.reference} for t in tasks]
    judged = judge(samples, benchmark, sandbox=sandbox, tasks=tasks, extraction=extraction)
    return Counter(outcome["outcome"] for outcome in judged)


@pytest.mark.parametrize("name", FILES)
def test_some_references_pass_and_stubs_fail(
    sandbox: Sandbox, shared_data: Path, name: str
) -> None:
    benchmark, tasks = load(name, shared_data)
    quick = tasks[3 :: max(1, len(tasks) // 6)]
    chosen = quick + [task for task in tasks if task.task_id in NOTABLE.get(name, ())]
    assert outcomes(sandbox, benchmark, chosen) == {"passed": len(chosen)}
    assert outcomes(sandbox, benchmark, quick, STUB) == {"failed": len(quick)}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_all_references_pass_and_stubs_fail(sandbox: Sandbox, shared_data: Path, name: str) -> None:
    benchmark, tasks = load(name, shared_data)
    assert outcomes(sandbox, benchmark, tasks) == {"passed": len(tasks)}
    assert outcomes(sandbox, benchmark, tasks, STUB) == {"failed": len(tasks)}


def test_quixbugs_with_a_bug_fail(sandbox: Sandbox, shared_data: Path) -> None:
    benchmark, tasks = load("quixbugs", shared_data)
    benchmark.limits = Limits(cpu_seconds=0.5)
    lines = (shared_data / "quixbugs" / "quixbugs_dev.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    samples = [
        {"task_id": task.task_id, "completion": record["incorrect"]}
        for task, record in zip(tasks, records, strict=True)
    ]
    found = Counter(o["outcome"] for o in judge(samples, benchmark, sandbox=sandbox))
    assert found["passed"] == 0
    assert sum(found.values()) == 20


@pytest.mark.parametrize("name", ["humaneval", "mbpp", "mbppplus"])
def test_rules_of_extraction_leave_references_alone(shared_data: Path, name: str) -> None:
    """As they stand, between fences, after their prompt or as whole programs: one program."""
    benchmark, tasks = load(name, shared_data)

    def code(task: Task, text: str, rule: Extraction = "code", whole: bool = False) -> str:
        program = program_of(Answer(text, whole), task, benchmark, rule)
        assert isinstance(program, Program)
        return program.code

    for task in tasks:
        reference = task.reference or ""
        plain = task.code_prefix + reference
        assert code(task, reference) == code(task, reference, "raw") == plain
        assert code(task, plain, "raw", whole=True) == plain
        assert code(task, f"Sure:\n\n```python\n{reference}\n```\nDone.") == f"{plain}\n"
        again = code(task, f"```python\n{plain}\n```")
        # HumanEval's prompts hold imports and helpers above the function: these come twice.
        assert again.endswith(f"{plain}\n")
        assert code(task, reference, "fenced") == task.code_prefix


def test_human_eval_s_own_example(sandbox: Sandbox, shared_data: Path) -> None:
    """The README of human-eval: pass@1 of 0.5 on its six example samples."""
    folder = shared_data / "humaneval"
    named = BENCHMARKS.get("humaneval")
    benchmark = named(named.Config(path=str(folder / "example_problem.jsonl")))
    samples = read_samples(folder / "example_samples.jsonl", benchmark=benchmark)
    assert benchmark.limits.wall_seconds < 10  # for which one of them sleeps
    benchmark.limits = replace(benchmark.limits, wall_seconds=0.5)
    judged = judge(samples, benchmark, sandbox=sandbox, extraction="raw")
    found = [outcome["outcome"] for outcome in judged]
    assert found == ["failed", "timeout", "failed", "passed", "passed", "passed"]
    assert pass_at_k(6, found.count("passed"), 1) == 0.4999999999999999  # to the last digit


def test_others_names_of_tasks_are_known(shared_data: Path) -> None:
    benchmark, tasks = load("mbppplus", shared_data)
    assert our_task_id("Mbpp/2", benchmark) == "mbppplus/2" == tasks[0].task_id
    assert our_task_id("mbppplus/2", benchmark) == "mbppplus/2"
    assert our_task_id("Mbpp/11", load("mbpp", shared_data)[0]) == "mbpp/11"


def test_real_completions_are_the_same_program_by_all_rules(shared_data: Path) -> None:
    """CodeGen's completions were cut when they were drawn, so that rules have little to do."""
    benchmark, tasks = load("humaneval", shared_data)
    by_id = {task.task_id: task for task in tasks}
    path = shared_data / "llm_samples" / "codegen16b_humaneval_samples.jsonl.gz"
    changed: Counter[str] = Counter()
    for sample in read_samples(path):
        answer, task = Answer(sample["completion"]), by_id[sample["task_id"]]
        raw, *others = (
            program_of(answer, task, benchmark, rule) for rule in ("raw", "code", "cut")
        )
        changed.update(code=others[0] != raw, cut=others[1] != raw, all=1)
    # Seven begin the function over again, for which `code` takes away the first beginning; the
    # others go on with lines of comment, which `cut` takes away.
    assert changed == {"code": 7, "cut": 370, "all": 16_400}
