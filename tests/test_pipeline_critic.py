"""Critics through the pipeline: phases from checkpoints, folds, pairs, a backbone of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_pipeline import Said, environment, metrics, recipe
from tests.test_pipeline import data as data  # the fixture
from wmtp.config.load import Document
from wmtp.errors import CheckpointError, ConfigError
from wmtp.modeling.mtp import MTPModel
from wmtp.pipeline.train import train
from wmtp.run_folder import RunFolder


def critic(file: Path, name: str, algorithm: dict[str, Any], **changes: Any) -> Document:
    return recipe(file, name=name, algorithm={"name": "critic-wmtp", **algorithm}, **changes)


def after(run: RunFolder, file: Path, name: str, algorithm: dict[str, Any]) -> Document:
    """A critic's recipe that starts from the model of a run."""
    found = critic(file, name, algorithm, model={"num_heads": 3, "pretrained": str(run.path)})
    del found.data["tokenizer"]
    return found


@pytest.fixture(scope="module")
def critic_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Phase `value` alone, with two folds."""
    algorithm = {"cross_fit": 2, "value_head": "mlp", "value_phase": {"share": 1.0}}
    return train(critic(data, "value", algorithm), environment(tmp_path_factory.mktemp("runs")))


def test_phase_policy_from_the_checkpoint_of_phase_value(
    critic_run: RunFolder, data: Path, tmp_path: Path
) -> None:
    logged = metrics(critic_run)
    assert logged[-1]["eval/value/drift"] == 0.0
    for name in ("auc_last", "auc_middle_within_problem", "calibration_error"):
        assert f"eval/value/{name}" in logged[-1]
    steps = [line for line in logged if "train/loss" in line]
    quantiles = [steps[-1][f"train/value/td_error/quantile_{q}"] for q in ("05", "50", "95")]
    assert quantiles == sorted(quantiles)
    settings = {"cross_fit": 2, "value_head": "mlp", "value_phase": {"share": 0.0}}
    run = train(after(critic_run, data, "policy", settings), environment(tmp_path))
    assert MTPModel.from_pretrained(run.model).value_head.num_folds == 2
    logged = metrics(run)
    # The held-out values of the end of phase value are those the run began with.
    assert run.held_out_values.is_file()
    assert logged[-1]["eval/value/drift"] > 0
    weights = [line["train/weight/std/head_0"] for line in logged if "train/loss" in line]
    assert weights[0] == 0.0 < weights[-1]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"cross_fit": 3, "value_head": "mlp"}, ConfigError, "cross_fit is 3, but .* of 2"),
        ({"cross_fit": 2}, ConfigError, "value_head is linear, but .* of mlp"),
    ],
)
def test_another_value_head_is_refused(
    critic_run: RunFolder,
    data: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        train(after(critic_run, data, "other", settings), environment(tmp_path))


def test_a_critic_with_its_own_backbone(critic_run: RunFolder, data: Path, tmp_path: Path) -> None:
    """Its values are computed once, for all runs with the same data, and held out too."""
    settings = {"values_from": str(critic_run.path)}
    tokenizer = {"pretrained": str(critic_run.model)}
    runs = [
        train(critic(data, name, settings, tokenizer=tokenizer), environment(tmp_path))
        for name in ("one", "two")
    ]
    assert len(list((tmp_path / "cache").glob("value-*.safetensors"))) == 2
    assert MTPModel.from_pretrained(runs[0].model).value_head is None
    assert runs[0].totals()["extra_flops"]["critic"] > critic_run.totals()["flops"]
    logged = metrics(runs[0])
    assert logged[-1]["eval/value/drift"] == 0.0
    judged = metrics(critic_run)[-1]
    assert logged[-1]["eval/value/calibration_error"] > 0
    assert "eval/value/auc_last" in judged
    losses = [line["train/loss"] for line in logged if "train/loss" in line]
    assert losses == [line["train/loss"] for line in metrics(runs[1]) if "train/loss" in line]
    baseline = train(recipe(data, name="plain", tokenizer=tokenizer), environment(tmp_path))
    again = critic(data, "x", {"values_from": str(baseline.path)}, tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match="needs a value head, and this checkpoint has none"):
        train(again, environment(tmp_path))
    no_head = after(baseline, data, "y", {"value_phase": {"share": 0.0}})
    with pytest.raises(CheckpointError, match="no value head that was trained"):
        train(no_head, environment(tmp_path))


def test_adapters_of_the_critic_alone(data: Path, tmp_path: Path) -> None:
    """The value loss reaches adapters and value head; the policy starts from the base as it was."""
    pytest.importorskip("peft")
    settings = {"trunk": "trained", "value_phase": {"share": 1.0}, "value_head": "mlp"}
    base = train(recipe(data, name="base"), environment(tmp_path))
    lora = {"pretrained": str(base.path), "num_heads": 3, "lora": {"rank": 2, "alpha": 4}}
    document = critic(data, "value", settings, model=lora)
    del document.data["tokenizer"]
    run = train(document, environment(tmp_path))
    before, after = (MTPModel.from_pretrained(r.model).state_dict() for r in (base, run))
    moved = {n: after[n] - before[n] for n in before if not torch.equal(after[n], before[n])}
    # Parallel head 0, the last layer, is no part of the trunk, and the further heads rest.
    assert moved
    assert all(re.search(r"layers\.0\..*_proj\.weight", name) for name in moved), moved.keys()
    assert all(torch.linalg.matrix_rank(change, rtol=1e-3) <= 2 for change in moved.values())
    policy = critic(data, "policy", {"values_from": str(run.path)}, model=lora)
    del policy.data["model"]["lora"], policy.data["tokenizer"]
    after_run = train(policy, environment(tmp_path))
    logged = [line for line in metrics(after_run) if "train/loss" in line]
    assert logged[-1]["train/weight/std/head_0"] > 0
    assert MTPModel.from_pretrained(after_run.model).value_head is None


def test_pairs_are_kept_together_or_refused(data: Path, tmp_path: Path) -> None:
    settings = {"value_loss": "pairwise", "value_phase": {"share": 0.5, "policy_loss": True}}
    source = {"source": "jsonl", "path": str(data), "max_length": 64}
    with pytest.raises(ConfigError, match="Set data.pairs to true"):
        train(critic(data, "unpaired", settings), environment(tmp_path))
    paired = critic(data, "paired", settings, data={**source, "pairs": True})
    with pytest.raises(ConfigError, match="Set environment micro_batch to an even number"):
        train(paired, environment(tmp_path, micro_batch=1))
    said = Said()
    run = train(paired, environment(tmp_path, micro_batch=2), display=said)
    assert any("pairs" in line for line in said.lines)
    assert any("eval/value/auc_last_within_problem" in line for line in metrics(run))


def test_folds_need_problems_on_both_sides(data: Path, tmp_path: Path) -> None:
    """With one problem, the head that gives its values would be fitted on nothing."""
    lines = data.read_text().splitlines(keepends=True)
    first, alone = json.loads(lines[1])["task_id"], tmp_path / "alone.jsonl"
    alone.write_text("".join(line for line in lines if json.loads(line)["task_id"] == first))
    source = {"source": "jsonl", "path": str(alone), "max_length": 64, "validation_split": None}
    with pytest.raises(ConfigError, match="all fall into one of the 3 folds"):
        train(critic(data, "one", {"cross_fit": 3}, data=source), environment(tmp_path))


def test_dropping_needs_correct_samples(data: Path, tmp_path: Path) -> None:
    graded = tmp_path / "graded.jsonl"
    graded.write_text(data.read_text().replace('"reward": 1.0', '"reward": 0.5'))
    source = {"source": "jsonl", "path": str(graded), "max_length": 64}
    with pytest.raises(ConfigError, match="no sample of data source jsonl has more than 0.5"):
        train(critic(data, "d", {"incorrect_samples": "drop"}, data=source), environment(tmp_path))
