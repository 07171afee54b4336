"""Benchmarks: references pass, empty answers fail, stop strings do no harm."""

import inspect
from pathlib import Path

import pytest

from wmtp.data.sources.mbpp import Mbpp
from wmtp.data.sources.minicode.grammar import ProblemSection, make_problems
from wmtp.data.sources.minicode.source import Minicode
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.evaluation.mbpp import MbppBenchmark
from wmtp.evaluation.minicode import MinicodeBenchmark
from wmtp.registry import BENCHMARKS, SOURCES
from wmtp.sandbox import Sandbox


def outcomes(benchmark: Benchmark, tasks: list[Task], completions: list[str]) -> list[str]:
    programs = [
        benchmark.program(task, completion)
        for task, completion in zip(tasks, completions, strict=True)
    ]
    with Sandbox(mode="limits-only") as sandbox:
        verdicts = dict(sandbox.judge(programs))
    return [verdicts[index].outcome for index in range(len(programs))]


def stopped(benchmark: Benchmark, completion: str) -> str:
    """The completion up to the first stop string."""
    return completion[: min([completion.find(s) % (1 << 30) for s in benchmark.stop])]


def test_names_in_the_registry_are_these() -> None:
    assert BENCHMARKS.get("minicode") is MinicodeBenchmark
    assert BENCHMARKS.get("mbpp") is MbppBenchmark
    assert SOURCES.get("mbpp") is Mbpp
    assert SOURCES.get("minicode") is Minicode


def test_minicode_asks_the_held_out_compositions() -> None:
    benchmark = MinicodeBenchmark(MinicodeBenchmark.Config(num_problems=300))
    tasks = benchmark.tasks()
    problems = make_problems(ProblemSection(num_problems=300))
    assert [t.task_id for t in tasks] == [p.task_id for p in problems if p.split == "test"]
    assert 15 < len(tasks) < 50
    assert [t.difficulty for t in tasks] == sorted(t.difficulty or 0 for t in tasks)
    references = [task.reference or "" for task in tasks]
    assert outcomes(benchmark, tasks, references) == ["passed"] * len(tasks)
    assert outcomes(benchmark, tasks[:8], ["    pass"] * 8) == ["failed"] * 8
    assert [stopped(benchmark, text) for text in references] == references
    assert stopped(benchmark, references[0] + "\n# Keep all.\ndef g(x):") == references[0]


def test_mbpp_is_the_test_split_with_whole_programs(shared_data: Path) -> None:
    path = str(shared_data / "mbpp" / "mbpp.jsonl")
    benchmark = MbppBenchmark(MbppBenchmark.Config(path=path))
    tasks = benchmark.tasks()
    assert [tasks[0].task_id, tasks[-1].task_id, len(tasks)] == ["mbpp/11", "mbpp/510", 500]
    cut = [t.task_id for t in tasks if stopped(benchmark, t.reference or "") != t.reference]
    assert cut == ["mbpp/342"]
    assert "task 342" in inspect.getdoc(MbppBenchmark)  # type: ignore[operator]
    program = benchmark.program(tasks[0], tasks[0].reference or "")
    assert program.code == tasks[0].reference
    assert program.limits.cpu_seconds == 30.0
    few = [t for t in tasks if t.task_id in {"mbpp/11", "mbpp/12", "mbpp/342", "mbpp/367"}]
    assert outcomes(benchmark, few, [t.reference or "" for t in few]) == ["passed"] * 4
    assert outcomes(benchmark, few, [""] * 4) == ["failed"] * 4


@pytest.mark.slow
def test_all_mbpp_references_pass(shared_data: Path) -> None:
    path = str(shared_data / "mbpp" / "mbpp.jsonl")
    benchmark = MbppBenchmark(MbppBenchmark.Config(path=path))
    tasks = benchmark.tasks()
    assert outcomes(benchmark, tasks, [t.reference or "" for t in tasks]) == ["passed"] * 500
