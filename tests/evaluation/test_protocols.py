"""Protocols: what they fix, and samples at several temperatures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny import tiny_config
from wmtp.config.environment import Environment
from wmtp.config.protocols import PROTOCOLS, Protocol
from wmtp.data.tokenizer import train_tokenizer
from wmtp.errors import ConfigError, WmtpError
from wmtp.evaluation.mbpp import MbppBenchmark
from wmtp.modeling.mtp import MTPModel
from wmtp.pipeline.benchmark import choose, evaluation_document
from wmtp.pipeline.evaluate import evaluate

GRID = Protocol("grid", num_samples=2, temperature=0.5, top_p=0.95, ks=(1, 2), grid=(0.5, 0.9))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["What is 1 + 1?\n#### 2"] * 2, 270)
    model = MTPModel.from_config(tiny_config(vocab_size=len(tokenizer)), num_heads=1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    records = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(3)]
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return tmp_path


def test_every_protocol_has_the_samples_that_its_ks_need() -> None:
    for protocol in PROTOCOLS.values():
        assert max(protocol.ks) <= protocol.num_samples
        assert not protocol.at(0.3).grid
        assert protocol.at(0.3).temperature == 0.3


def test_meta_mtp_is_pinned(shared_data: Path) -> None:
    protocol = PROTOCOLS["meta-mtp"]
    assert (protocol.num_samples, protocol.ks) == (200, (1, 10, 100))
    path = str(shared_data / "mbpp" / "mbpp.jsonl")
    document = evaluation_document(None, "mbpp", path, "meta-mtp", [])
    chosen = choose(document)
    tasks = chosen.tasks
    assert isinstance(chosen.benchmark, MbppBenchmark)
    assert tasks[0].prompt.count('"""') == 8
    for name in ("similar_elements", "is_not_prime", "heap_queue_largest"):  # tasks 2, 3, 4
        assert f"def {name}(" in tasks[0].prompt
    plain = choose(evaluation_document(None, "mbpp", path, None, [])).tasks
    assert tasks[0].prompt.endswith(plain[0].prompt)
    assert [t.reference for t in tasks] == [t.reference for t in plain]
    other = evaluation_document(None, "mbpp", path, "meta-mtp", ["num_shots=1"])
    with pytest.raises(ConfigError, match="meta-mtp fixes num_shots at 3 for mbpp"):
        choose(other)


def test_a_grid_reports_the_best_temperature_for_each_k(
    checkpoint: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "grid", GRID)
    settings = ["num_shots=0", "max_new_tokens=4"]
    document = evaluation_document(None, "gsm8k", str(problems), "grid", settings)
    where = Environment(device="cpu")
    folder = problems / "out"
    # What the completions are is set here, so that the numbers can be.
    right = {0.5: {0: (0, 1)}, 0.9: {0: (0,), 1: (1,)}}
    for temperature, solved in right.items():
        part = folder / f"temperature-{temperature:g}"
        part.mkdir(parents=True)
        records = [
            {
                "task_id": f"gsm8k/test/{n}",
                "sample_id": i,
                "completion": f"#### {n + 1 if i in solved.get(n, ()) else 'no'}",
            }
            for n in range(3)
            for i in range(2)
        ]
        (part / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert evaluate(checkpoint, document, where, output=folder) == folder
    report = json.loads((folder / "report.json").read_text())
    assert report["temperatures"]["pass@1"]["best"] == 0.5
    assert report["temperatures"]["pass@2"]["best"] == 0.9
    assert report["metrics"]["pass@1"]["value"] == pytest.approx(1 / 3)
    assert report["metrics"]["pass@2"]["value"] == pytest.approx(2 / 3)
    at_5 = report["temperatures"]["pass@2"]["all"]["0.5"]
    assert at_5["value"] == pytest.approx(1 / 3)
    part = json.loads((folder / "temperature-0.9" / "report.json").read_text())
    assert part["settings"]["temperature"] == 0.9
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {sample["temperature"] for sample in samples} == {0.5}
    outcomes = (folder / "outcomes.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["outcome"] == "passed" for line in outcomes) == 2


def test_a_grid_draws_at_each_temperature(
    checkpoint: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = (0.0, 0.9)
    monkeypatch.setitem(PROTOCOLS, "grid", replace(GRID, grid=grid))
    settings = ["num_shots=0", "max_new_tokens=4"]
    document = evaluation_document(None, "gsm8k", str(problems), "grid", settings)
    folder = evaluate(checkpoint, document, Environment(device="cpu"), output=problems / "out")
    drawn = [
        (folder / f"temperature-{t:g}" / "samples.jsonl").read_text().splitlines() for t in grid
    ]
    assert [len(lines) for lines in drawn] == [6, 6]
    assert drawn[0] != drawn[1]


def test_too_few_samples_for_k_are_an_error(
    checkpoint: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "grid", Protocol("grid", 1, 0.5, 1.0, (2,), (0.5,)))
    settings = ["num_shots=0", "max_new_tokens=4"]
    document = evaluation_document(None, "gsm8k", str(problems), "grid", settings)
    with pytest.raises(WmtpError, match="pass@2 needs at least 2 samples per task"):
        evaluate(checkpoint, document, Environment(device="cpu"), output=problems / "out")
