"""From samples to outcomes: order, resuming, errors, and the real benchmarks' own solutions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from wmtp.config.section import Section
from wmtp.display import Display
from wmtp.errors import DataError, SandboxError
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.evaluation.judge import judge, read_samples
from wmtp.evaluation.run import judge_and_report
from wmtp.sandbox import Limits, Program, Sandbox, Verdict, probe
from wmtp.sandbox.conclusion import Again
from wmtp.sandbox.slot import Attempt, Slot

LIMITS = Limits(cpu_seconds=30.0, wall_seconds=120.0)


class Settings(Section):
    pass


class Squares(Benchmark[Settings]):
    """Three tasks: return the square of a number plus 0, 1 or 2."""

    Config: ClassVar[type[Section]] = Settings

    def tasks(self) -> list[Task]:
        return [
            Task(f"squares/{k}", f"def f{k}(x):", f"assert f{k}(3) == {9 + k}") for k in range(3)
        ]

    def program(self, task: Task, completion: str) -> Program:
        return Program(task.prompt + completion, task.tests, Limits(cpu_seconds=1.0))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("auto" if probe().tier else "limits-only", workers=2) as sandbox:
        yield sandbox


@pytest.fixture
def benchmark() -> Squares:
    return Squares(Settings())


SAMPLES: list[dict[str, Any]] = [
    {"task_id": "squares/1", "completion": " return x * x + 1"},
    {"task_id": "squares/0", "completion": " return x + x"},
    {"task_id": "squares/1", "completion": " return x * x"},
    {"task_id": "squares/0", "completion": " return x * x"},
]


def test_outcomes_come_in_the_order_of_the_samples(sandbox: Sandbox, benchmark: Squares) -> None:
    calls: list[tuple[int, int]] = []
    outcomes = judge(
        SAMPLES,
        benchmark,
        sandbox=sandbox,
        progress=lambda done, total: calls.append((done, total)),
    )
    found = [(o["task_id"], o["sample_id"], o["outcome"]) for o in outcomes]
    assert found == [
        ("squares/1", 0, "passed"),
        ("squares/0", 0, "failed"),
        ("squares/1", 1, "failed"),
        ("squares/0", 1, "passed"),
    ]
    assert all(
        o.keys() == {"task_id", "sample_id", "outcome", "seconds", "detail", "sha256"}
        for o in outcomes
    )
    assert calls == [(k, 4) for k in range(5)]


def test_samples_of_a_task_are_judged_together(
    sandbox: Sandbox, benchmark: Squares, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tests are then made ready once; in which order samples were drawn does not matter."""
    started: list[str] = []
    start = Slot.start

    def note(self: Slot, attempt: Attempt) -> None:
        assert isinstance(attempt.program, Program)
        started.append(attempt.program.tests)
        start(self, attempt)

    monkeypatch.setattr(Slot, "start", note)
    judge(SAMPLES, benchmark, sandbox=sandbox)
    first, second = dict.fromkeys(started)
    assert started == [first] * 2 + [second] * 2


def test_a_resumed_run_judges_only_what_is_missing(
    sandbox: Sandbox, benchmark: Squares, tmp_path: Path
) -> None:
    path = tmp_path / "outcomes.jsonl"
    whole = judge(SAMPLES, benchmark, sandbox=sandbox, outcomes_path=path)
    lines = path.read_text().splitlines(keepends=True)
    assert sorted(map(json.loads, lines), key=str) == sorted(whole, key=str)
    kept = json.loads(lines[0])
    # Killed while it wrote the second line; and the first one must be taken as it stands.
    changed = {**kept, "detail": "as it was"}
    path.write_text(json.dumps(changed) + "\n" + lines[1][:20])
    again = judge(SAMPLES, benchmark, sandbox=sandbox, outcomes_path=path)
    assert [o["outcome"] for o in again] == [o["outcome"] for o in whole]
    assert changed in again
    keys = [(o["task_id"], o["sample_id"]) for o in map(json.loads, path.read_text().splitlines())]
    assert len(keys) == len(set(keys)) == 4


def test_an_outcome_of_another_program_is_judged_again(
    sandbox: Sandbox, benchmark: Squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outcomes.jsonl"

    def judged(samples: list[dict[str, Any]]) -> tuple[list[str], int]:
        """Return the outcomes, and how many of them are new."""
        calls: list[int] = []
        outcomes = judge(
            samples,
            benchmark,
            sandbox=sandbox,
            outcomes_path=path,
            progress=lambda done, _: calls.append(done),
        )
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert sorted(lines, key=str) == sorted(outcomes, key=str)
        return [outcome["outcome"] for outcome in outcomes], len(calls) - 1

    assert judged(SAMPLES) == (["passed", "failed", "failed", "passed"], 4)
    changed = [*SAMPLES[:3], {**SAMPLES[3], "completion": " return x"}]
    assert judged(changed) == (["passed", "failed", "failed", "failed"], 1)
    assert judged(SAMPLES[:3]) == (["passed", "failed", "failed"], 0)
    tasks = [Task(t.task_id, t.prompt, "assert True") for t in benchmark.tasks()]
    monkeypatch.setattr(benchmark, "tasks", lambda: tasks)
    assert judged(SAMPLES[:3]) == (["passed"] * 3, 3)
    path.write_text('{"task_id": "squares/1", "outcome": "passed"}\n')
    with pytest.raises(DataError, match=r"outcomes\.jsonl:1: there is no 'sample_id'"):
        judged(SAMPLES)


def test_a_finished_run_needs_no_sandbox(
    sandbox: Sandbox, benchmark: Squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outcomes.jsonl"
    whole = judge(SAMPLES, benchmark, sandbox=sandbox, outcomes_path=path)

    def broken(*args: Any) -> Any:
        raise SandboxError("made up to fail")

    monkeypatch.setattr("wmtp.sandbox.slot.Slot.start", broken)
    assert judge(SAMPLES, benchmark, sandbox=sandbox, outcomes_path=path) == whole
    with pytest.raises(SandboxError, match="made up"):
        judge(SAMPLES, benchmark, sandbox=sandbox)


def test_outcomes_written_before_a_broken_sandbox_are_kept(
    sandbox: Sandbox, benchmark: Squares, tmp_path: Path
) -> None:
    path = tmp_path / "outcomes.jsonl"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise SandboxError("made up to fail")

    with pytest.raises(SandboxError, match="made up"):
        judge(SAMPLES, benchmark, sandbox=sandbox, outcomes_path=path, progress=stop)
    assert len(path.read_text().splitlines()) == 2


def test_an_error_is_never_scored_and_tried_again(
    sandbox: Sandbox, benchmark: Squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def report() -> dict[str, Any]:
        tasks = benchmark.tasks()
        settings: dict[str, Any] = {}
        return judge_and_report(
            SAMPLES, benchmark, tasks, (1,), sandbox, tmp_path, settings, Display()
        )

    def conclude(self: Slot, reports: dict[str, Any]) -> Verdict | Again:
        assert self.attempt is not None
        tried.append(self.attempt.program.code)
        if "f0" in self.attempt.program.code:
            return Again("fault", Verdict("error", 0.0, "made up"))
        return Verdict("passed", 0.0)

    with monkeypatch.context() as patch:
        patch.setattr(Slot, "conclude", conclude)
        with pytest.raises(
            SandboxError, match=r"2 of 4 samples .*sample 0 of task squares/0 \(made"
        ):
            report()
    assert not (tmp_path / "report.json").exists()
    lines = (tmp_path / "outcomes.jsonl").read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == ["passed"] * 2
    assert len(tried) == 6
    # An older file may hold errors.
    with (tmp_path / "outcomes.jsonl").open("a") as file:
        file.write('{"task_id": "squares/0", "sample_id": 0, "outcome": "error"}\n')
    assert report()["outcomes"] == {"passed": 3, "failed": 1}


def test_a_completion_that_no_file_can_hold_is_judged(
    sandbox: Sandbox, benchmark: Squares, tmp_path: Path
) -> None:
    samples = [{"task_id": "squares/0", "completion": " return x * x  # \ud800"}]
    path = tmp_path / "outcomes.jsonl"
    [outcome] = judge(samples, benchmark, sandbox=sandbox, outcomes_path=path)
    assert outcome["outcome"] == "failed"
    assert judge(samples, benchmark, sandbox=sandbox, outcomes_path=path) == [outcome]


def test_an_unknown_task_names_the_nearest(sandbox: Sandbox, benchmark: Squares) -> None:
    samples = [{"task_id": "square/1", "completion": ""}]
    with pytest.raises(DataError, match=r"'square/1'.*Did you mean 'squares/1'\?"):
        judge(samples, benchmark, sandbox=sandbox)


def test_a_sample_id_given_twice_is_an_error(sandbox: Sandbox, benchmark: Squares) -> None:
    samples = [{"task_id": "squares/1", "completion": "", "sample_id": "a"}] * 2
    with pytest.raises(DataError, match="'squares/1' with sample_id 'a' twice"):
        judge(samples, benchmark, sandbox=sandbox)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"task_id": "square/1"}, r"samples\.jsonl:2: .* 'square/1'\. Did you mean 'squares/1'\?"),
        ({"task_id": "squares/1", "sample_id": 0}, r"samples\.jsonl:2: .* sample_id 0 twice"),
    ],
)
def test_samples_that_do_not_fit_the_benchmark_are_named(
    benchmark: Squares, tmp_path: Path, sample: dict[str, Any], message: str
) -> None:
    path = tmp_path / "samples.jsonl"
    records = [{"task_id": "squares/1", "completion": ""}, {"completion": "", **sample}]
    path.write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(DataError, match=message):
        read_samples(path, benchmark=benchmark)


def test_samples_are_read_with_everything_in_them(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    records = [
        {"task_id": "a", "completion": "x", "temperature": 0.2},
        {"task_id": "a", "completion": "ä", "sample_id": "second"},
    ]
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    assert read_samples(path) == records


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"samples.jsonl:2: not valid JSON"),
        ('["a"]', r"samples.jsonl:2: expected a JSON object"),
        ('{"task_id": "a"}', r"samples.jsonl:2: there is no 'completion'"),
        ('{"task": "a", "completion": ""}', r"no 'task_id'. Did you mean 'task'\?"),
        ('{"task_id": "a", "completion": null}', r"completion is None. Expected a string"),
        (
            '{"task_id": "a", "completion": "", "sample_id": [1]}',
            r"sample_id is \[1\]. Expected an integer or a string",
        ),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"task_id": "a", "completion": ""}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        read_samples(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        read_samples(tmp_path / "nowhere.jsonl")


# ---- real benchmarks ----------------------------------------------------------------------------


def human_eval(folder: Path, completion: str | None = None) -> list[Program]:
    programs = []
    for line in (folder / "humaneval" / "HumanEval.jsonl").read_text().splitlines():
        task = json.loads(line)
        code = task["prompt"] + (completion or task["canonical_solution"])
        programs.append(Program(code, f"{task['test']}\ncheck({task['entry_point']})", LIMITS))
    return programs


def mbpp(folder: Path) -> list[Program]:
    programs = []
    for line in (folder / "mbpp" / "mbpp.jsonl").read_text().splitlines():
        task = json.loads(line)
        tests = [task["test_setup_code"], *task["test_list"], *task["challenge_test_list"]]
        programs.append(Program(task["code"], "\n".join(tests), LIMITS))
    return programs


def outcomes_of(sandbox: Sandbox, programs: list[Program]) -> Counter[str]:
    return Counter(verdict.outcome for _, verdict in sandbox.judge(programs))


def test_some_reference_solutions_pass_and_stubs_do_not(
    sandbox: Sandbox, shared_data: Path
) -> None:
    programs = human_eval(shared_data)[::10] + mbpp(shared_data)[7::60]
    # Those whose tests build instances of the program's own classes.
    programs += [p for p in mbpp(shared_data) if "class Node" in p.code]
    assert outcomes_of(sandbox, programs) == {"passed": len(programs)}
    stubs = human_eval(shared_data, "    return None\n")[::10]
    assert outcomes_of(sandbox, stubs) == {"failed": len(stubs)}


@pytest.mark.slow
def test_all_reference_solutions_pass(sandbox: Sandbox, shared_data: Path) -> None:
    assert outcomes_of(sandbox, human_eval(shared_data)) == {"passed": 164}
    assert outcomes_of(sandbox, human_eval(shared_data, "    return None\n")) == {"failed": 164}
    assert outcomes_of(sandbox, mbpp(shared_data)) == {"passed": 974}
