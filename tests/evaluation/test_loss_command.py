"""The held-out loss of a run, by head: at the end of training, and again by command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.test_pipeline import environment, recipe
from wmtp.cli import app
from wmtp.data.example import Example
from wmtp.data.sources.jsonl import write_examples
from wmtp.errors import ConfigError
from wmtp.pipeline.benchmark import evaluation_document
from wmtp.pipeline.evaluate import evaluate
from wmtp.pipeline.train import train


def test_loss_of_a_run_by_head(tmp_path: Path) -> None:
    examples = [
        Example(
            f"t/{i}",
            "def f(x):\n",
            f"    return x + {i % 7}\n",
            source="test",
            split="train" if i < 16 else "validation",
        )
        for i in range(24)
    ]
    file = tmp_path / "data.jsonl"
    write_examples(file, examples)
    document = recipe(file)
    document.data["data"].pop("incorrect_share")
    document.data["optimization"]["steps"] = 4
    run = train(document, environment(tmp_path))
    trained = json.loads((run.evaluation("held-out") / "report.json").read_text())
    heads = trained["per_head"]
    assert list(heads) == ["head_0", "head_1", "head_2"]
    # The end token is the one that is no text; body and end of every example are targets of head 0.
    assert heads["head_0"]["token_class"]["other"]["n"] == 8
    assert {"keyword", "name", "operator", "literal"} <= heads["head_0"]["token_class"].keys()
    for k, head in enumerate(heads.values()):
        assert head["all"]["ce"] == pytest.approx(trained["metrics"][f"ce/head_{k}"]["value"])
        assert head["all"]["top1"] == pytest.approx(
            trained["metrics"][f"accuracy/head_{k}"]["value"]
        )
        for grouping in ("position", "token_class", "difficulty"):
            assert sum(row["n"] for row in head[grouping].values()) == head["all"]["n"]
    done = CliRunner().invoke(app, ["eval", str(run.path), "--benchmark", "loss"])
    assert done.exit_code == 0, done.output
    again = json.loads((run.evaluation("loss") / "report.json").read_text())
    assert again["metrics"]["ce/head_0"] == pytest.approx(trained["metrics"]["ce/head_0"], rel=1e-5)
    assert again["per_head"]["head_2"]["all"] == pytest.approx(heads["head_2"]["all"], rel=1e-4)
    assert "Heads by group of tokens: run, loss" in (run.path / "report.html").read_text()
    few = evaluation_document(run.path, "loss", None, None, ["limit=2", "split=train"])
    folder = evaluate(run.path, few, environment(tmp_path), output=tmp_path / "few")
    assert json.loads((folder / "report.json").read_text())["metrics"]["perplexity"]["n"] == 2
    drawn = evaluation_document(run.path, "loss", None, "notes", [])
    with pytest.raises(ConfigError, match="the held-out loss draws nothing, so protocol has no"):
        evaluate(run.path, drawn, environment(tmp_path), output=tmp_path / "drawn")


def test_loss_needs_a_run(tmp_path: Path) -> None:
    document = evaluation_document(None, "loss", None, None, [])
    with pytest.raises(ConfigError, match=r"there is no recipe\.yaml"):
        evaluate(tmp_path, document, environment(tmp_path))
