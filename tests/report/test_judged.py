"""The page of an evaluation that belongs to no run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import write_json, write_lines
from wmtp.report.examples import outcome_section
from wmtp.report.judged import write_evaluation_page
from wmtp.report.runs import Evaluation, Outcome, Sample, load_evaluation


def evaluation(folder: Path, **changes: Any) -> Path:
    outcomes = {(0, 0): "passed", (0, 1): "passed", (1, 0): "passed", (2, 0): "timeout"}
    metric = {"value": 0.5, "low": 0.2, "high": 0.8, "n": 3}
    record = {
        "settings": {"benchmark": "humaneval"},
        "sandbox": "namespaces",
        "extraction": "code",
        "metrics": {"pass@1": metric},
        "outcomes": {"passed": 3, "timeout": 1},
    }
    write_json(folder / "report.json", {**record, **changes})
    keys = [{"task_id": f"t/{task}", "sample_id": sample} for task, sample in outcomes]
    write_lines(
        folder / "outcomes.jsonl",
        [{**k, "outcome": o, "detail": ""} for k, o in zip(keys, outcomes.values(), strict=True)],
    )
    write_lines(
        folder / "samples.jsonl",
        [{**key, "prompt": "def f():\n", "completion": "</pre><script>"} for key in keys],
    )
    return folder


def test_scores_and_examples_by_kind(tmp_path: Path) -> None:
    page = write_evaluation_page(evaluation(tmp_path), "theirs", ["3 tasks: a note"]).read_text()
    assert "<h1>theirs</h1>" in page
    assert "4 samples of 3 tasks" in page
    assert "50.0 %" in page
    assert "20.0 to 80.0" in page
    assert "3 tasks: a note" in page
    assert "passed 3 (75.0 %)" in page
    assert "timeout 1 (25.0 %)" in page
    assert page.count("<details>") == 5  # four examples, and how it was made
    assert "&lt;/pre&gt;&lt;script&gt;" in page
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=", page)  # one file, nothing fetched
    assert 'role="alert"' not in page


def test_weak_isolation_is_said_first(tmp_path: Path) -> None:
    page = write_evaluation_page(evaluation(tmp_path, sandbox="limits-only"), "t").read_text()
    assert page.index("without isolation") < page.index("<h2>Results")


def test_samples_may_lie_elsewhere_and_hold_half_a_surrogate_pair(tmp_path: Path) -> None:
    folder = evaluation(tmp_path)
    (folder / "samples.jsonl").unlink()
    samples = [Sample("t/2", "x = '\ud800'", 0, "p")]
    page = write_evaluation_page(folder, "t", samples=samples).read_text()
    assert page.count("<details>") == 2
    assert "x = &#39;?&#39;" in page


@pytest.mark.parametrize(("shown", "expected"), [(1, ["t/0"]), (2, ["t/0", "t/1"]), (9, None)])
def test_examples_are_of_different_tasks_first(shown: int, expected: list[str] | None) -> None:
    keys = [("t/0", 0), ("t/0", 1), ("t/0", 2), ("t/1", 0)]
    judged = Evaluation(
        {},
        outcome_counts={"failed": 4},
        outcomes=tuple(Outcome(task_id, "failed", sample_id) for task_id, sample_id in keys),
        samples=tuple(Sample(task_id, "", sample_id) for task_id, sample_id in keys),
    )
    found = outcome_section("b", "l", [judged], shown).examples
    assert [example.task_id for example in found] == (expected or ["t/0", "t/1", "t/0", "t/0"])


def test_it_reads_what_an_evaluation_writes(tmp_path: Path) -> None:
    found = load_evaluation(evaluation(tmp_path))
    assert json.loads((tmp_path / "report.json").read_text())["extraction"] == found.extraction
    assert len(found.outcomes) == len(found.samples) == 4
