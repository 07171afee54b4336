from __future__ import annotations

import json
from pathlib import Path

import pytest

from wmtp.errors import DataError
from wmtp.report.runs import Estimate, load_run, load_runs

from .conftest import RunWriter


def test_a_run_is_read_whole(write_run: RunWriter) -> None:
    run = load_run(write_run("rho1-wmtp", 2))
    assert (run.summary.algorithm, run.summary.seed, run.summary.tokens) == (
        "rho1-wmtp",
        2,
        1250000,
    )
    assert run.recipe["optimization"]["global_batch"] == 48
    assert len(run.curve("eval/ce/head_0")) == 10
    assert len(run.held_out("ce")) == 4
    assert run.last("train/phase") is None
    assert [sample.reward for sample in run.weighed_samples] == [1, 0, 1, 0]
    evaluation = run.evaluations["minicode"]
    assert evaluation.sandbox == "namespaces"
    assert evaluation.metrics["pass@1"].n == 120
    rates = evaluation.pass_rates()
    assert sum(rates.values()) / len(rates) == pytest.approx(evaluation.metrics["pass@1"].value)


def test_everything_but_the_summary_may_be_absent(write_run: RunWriter) -> None:
    run = load_run(write_run(only_summary=True))
    assert (run.metrics, run.weighed_samples, run.evaluations, run.recipe) == ((), (), {}, {})
    assert run.held_out("ce") == []


def test_a_metric_may_be_a_bare_number(write_run: RunWriter) -> None:
    path = write_run()
    report = path / "evaluation" / "held-out" / "report.json"
    report.parent.mkdir()
    report.write_text(json.dumps({"metrics": {"perplexity": 3.5, "bits_per_byte": None}}))
    assert load_run(path).evaluations["held-out"].metrics == {"perplexity": Estimate(3.5)}


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it has no run\.json"):
        load_run(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        load_run(tmp_path / "absent")
    with pytest.raises(DataError, match="no run to report on"):
        load_runs([])


def test_a_folder_given_twice(write_run: RunWriter) -> None:
    path = write_run()
    with pytest.raises(DataError, match="given twice"):
        load_runs([path, path / ".." / path.name])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", "{", r"run\.json: not valid JSON"),
        ("run.json", '{"name": "a"}', r"run\.json: algorithm: Field required"),
        ("recipe.yaml", "a: [\n", r"^[^\n]*recipe\.yaml:2: not valid YAML: .* remove this file\.$"),
        ("recipe.yaml", "a: " + "[" * 2000, r"recipe\.yaml: nested too deeply"),
        ("recipe.yaml", "a: {<<: 5}", r"recipe\.yaml:1 a\.<<: expected an alias"),
        ("recipe.yaml", b"a: \xff", r"recipe\.yaml: not UTF-8 text"),
        ("recipe.yaml", "- a", r"recipe\.yaml: Input should be a valid dictionary"),
        ("provenance.json", "[]", r"provenance\.json: expected a JSON object, found list"),
        ("metrics.jsonl", '{"step": 1, "tokens": 5}\n{"step": 2}\n', r"metrics\.jsonl:2: tokens"),
        ("metrics.jsonl", "nonsense\n", r"metrics\.jsonl:1: not valid JSON"),
        ("weights.json", "{}", r"weights\.json: samples: Field required"),
        (
            "weights.json",
            '{"samples": [{"task_id": "a", "reward": 1, "tokens": ["x", "y"], "weights": [[1]], '
            '"fault": [false]}]}',
            r"weights\.json: samples\.0: .*2 tokens, 1 weights",
        ),
        ("evaluation/minicode/report.json", "{}", r"minicode/report\.json: "),
        ("evaluation/minicode/outcomes.jsonl", '{"task_id": "a"}\n', r"outcomes\.jsonl:1: outcome"),
        ("evaluation/minicode/samples.jsonl", "[]\n", r"samples\.jsonl:1: expected a JSON object"),
    ],
)
def test_a_malformed_file_is_named(
    write_run: RunWriter, file: str, text: str | bytes, message: str
) -> None:
    path = write_run()
    (path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        load_run(path)
