"""The training step: absolute values, accumulation, processes, padding, resumption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.tiny import tiny_data, tiny_model, trainer_for
from wmtp.algorithms.baseline import Baseline
from wmtp.algorithms.critic import Critic
from wmtp.algorithms.rho1 import Rho1
from wmtp.algorithms.shuffled import Shuffled
from wmtp.data.collate import Collate
from wmtp.errors import CheckpointError, TrainingError
from wmtp.training.checkpoints import latest_checkpoint

ORDER = np.arange(16)


def algorithms():
    return {
        "mtp-baseline": lambda: Baseline(Baseline.Config()),
        "rho1-wmtp": lambda: Rho1(Rho1.Config(reference="unused", always_keep_head_0=False)),
        "critic-wmtp": lambda: Critic(Critic.Config(train_trunk=True, value_phase={"share": 0.4})),
        "shuffled": lambda: Shuffled(
            Shuffled.Config(of={"name": "rho1-wmtp", "reference": "unused"}), seed=7
        ),
    }


def train(folder: Path, name: str, micro: int, accumulation: int, order=ORDER, **arguments):
    algorithm = algorithms()[name]()
    model = tiny_model(value_head=algorithm.value_head is not None)
    trainer, logs = trainer_for(
        folder,
        algorithm,
        model,
        tiny_data(),
        order,
        micro=micro,
        accumulation=accumulation,
        **arguments,
    )
    trainer.train()
    return trainer, logs


def test_first_loss_is_the_hand_written_sum(tmp_path: Path) -> None:
    """Sum over heads of the mean cross entropy, from plain logits and plain loops."""
    data, model = tiny_data(), tiny_model()
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for item in data.items[:8]:
            ids = torch.from_numpy(item.input_ids).long()
            logits = model.head_logits(ids[None])[0]
            for t in range(len(ids)):
                for k in range(4):
                    if t + k + 1 < len(ids) and item.completion[t + k + 1]:
                        total += F.cross_entropy(logits[t, k], ids[t + k + 1]).item()
                        count += 1
    _, logs = train(tmp_path, "mtp-baseline", 8, 1)
    assert logs[0]["train/loss"] == pytest.approx(4 * total / count, rel=1e-5)


@pytest.mark.parametrize("name", list(algorithms()))
def test_accumulation_changes_nothing(tmp_path: Path, name: str) -> None:
    """8x1, 1x8 and 4x2 give the same losses, step after step."""
    runs = [train(tmp_path, name, micro, 8 // micro)[1] for micro in (8, 1, 4)]
    losses = np.array([[log["train/loss"] for log in logs] for logs in runs])
    assert losses.shape == (3, 2)
    np.testing.assert_allclose(losses[1:], losses[[0, 0]], rtol=2e-5)


def test_logged_statistics_do_not_depend_on_micro_batches(tmp_path: Path) -> None:
    one, eight = (train(tmp_path, "rho1-wmtp", m, 8 // m)[1] for m in (8, 1))
    for key in one[0]:
        if key.startswith(("train/ce", "train/weight")):
            assert one[0][key] == pytest.approx(eight[0][key], rel=1e-5), key
    assert one[0]["train/weight/mean/head_2"] == pytest.approx(1.0, abs=1e-6)
    assert 0.3 < one[0]["train/weight/zero_share/head_2"] < 0.5
    assert one[0]["train/weight/effective_sample_size/head_0"] == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("name", list(algorithms()))
def test_padding_changes_nothing(tmp_path: Path, name: str) -> None:
    """More padding on the right gives the same loss and gradient."""
    found = []
    for multiple in (1, 32):
        algorithm = algorithms()[name]()
        model = tiny_model(value_head=algorithm.value_head is not None).eval()
        inputs = Collate(4, 0, multiple_of=multiple)(list(enumerate(tiny_data(6).items)))
        trainer_like, _ = trainer_for(
            tmp_path, algorithm, model, tiny_data(6), np.arange(6), micro=6
        )
        trainer_like._num_completion = float(inputs["completion"].sum())
        trainer_like.state.max_steps = 10
        trainer_like.state.global_step = 9
        valid = (inputs["labels"] != -100).sum()
        loss = trainer_like.compute_loss(model, inputs, num_items_in_batch=valid)
        loss.backward()
        grad = model.backbone.get_input_embeddings().weight.grad
        found.append((loss.item(), grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["critic-wmtp", "shuffled"])
def test_resumed_equals_uninterrupted(tmp_path: Path, name: str) -> None:
    order = np.concatenate([ORDER, ORDER[::-1]])
    saving = {"save_strategy": "steps", "save_steps": 3, "micro": 4, "accumulation": 1}
    algorithm = algorithms()[name]()
    whole, logs = train(tmp_path / "whole", name, 4, 1, order, save_strategy="steps", save_steps=3)
    saved = tmp_path / "whole" / "checkpoint-3"
    assert latest_checkpoint(tmp_path / "whole").name == "checkpoint-8"
    model = tiny_model(value_head=algorithm.value_head is not None, seed=99)
    del saving["micro"], saving["accumulation"]
    again, later = trainer_for(
        tmp_path / "again", algorithm, model, tiny_data(), order, micro=4, **saving
    )
    again.train(resume_from_checkpoint=str(saved))
    assert [log["step"] for log in later] == [4, 5, 6, 7, 8]
    assert [log["train/loss"] for log in later] == [log["train/loss"] for log in logs[3:]]
    assert again.algorithm.state == whole.algorithm.state
    assert again.state.num_input_tokens_seen == whole.state.num_input_tokens_seen
    for one, two in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 4 and 8."""
    folder = tmp_path_factory.mktemp("run")
    order = np.concatenate([ORDER, ORDER[::-1]])
    train(folder, "mtp-baseline", 4, 1, order, save_strategy="steps", save_steps=4)
    return folder


@pytest.mark.parametrize("state", [None, "", '{"global_'])
def test_a_checkpoint_cut_off_is_passed_over(
    checkpoints: Path, tmp_path: Path, state: str | None
) -> None:
    folder = Path(shutil.copytree(checkpoints, tmp_path / "run"))
    file = folder / "checkpoint-8" / "trainer_state.json"
    file.unlink()
    if state is not None:
        file.write_text(state)
    assert latest_checkpoint(folder) == folder / "checkpoint-4"
    assert latest_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("how", ["missing", "short", "empty"])
@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "mtp_heads.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"],
)
def test_a_damaged_checkpoint_is_refused(
    checkpoints: Path, tmp_path: Path, name: str, how: str
) -> None:
    folder = Path(shutil.copytree(checkpoints, tmp_path / "run"))
    file = folder / "checkpoint-8" / name
    content = file.read_bytes()
    file.unlink()
    if how != "missing":
        file.write_bytes(content[:-100] if how == "short" else b"")
    with pytest.raises(CheckpointError, match=r"checkpoint-8: the checkpoint is damaged: .*delete"):
        latest_checkpoint(folder)


def test_a_state_that_is_none_is_damage(checkpoints: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints, tmp_path / "run"))
    (folder / "checkpoint-8" / "trainer_state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not the state of a trainer"):
        latest_checkpoint(folder)


def test_a_step_without_targets_is_refused(tmp_path: Path) -> None:
    data = tiny_data()
    for item in data.items:
        item.completion[:] = False
    trainer, _ = trainer_for(
        tmp_path, algorithms()["mtp-baseline"](), tiny_model(), data, ORDER, micro=8
    )
    with pytest.raises(TrainingError, match="none of the samples"):
        trainer.train()


@pytest.mark.parametrize("name", ["mtp-baseline", "critic-wmtp"])
def test_one_non_finite_step_leaves_no_trace(tmp_path: Path, name: str) -> None:
    data, model = tiny_data(), tiny_model(value_head=name == "critic-wmtp")
    algorithm = algorithms()[name]()
    order = np.tile(ORDER, 4)
    trainer, logs = trainer_for(tmp_path, algorithm, model, data, order, micro=8)
    forward, calls = model.forward, []

    def broken_once(*args, **kwargs):
        out = forward(*args, **kwargs)
        calls.append(1)
        if len(calls) == 3:
            for field in ("ce", "weighted_ce", "value"):
                value = getattr(out, field)
                setattr(out, field, None if value is None else value * float("nan"))
        return out

    model.forward = broken_once
    trainer.train()
    assert trainer.run_state.skipped == 1
    losses = {log["step"]: log["train/loss"] for log in logs if "train/loss" in log}
    assert len(calls) - len(losses) == 1
    assert np.isfinite(list(losses.values())).all()
    assert "nan" not in json.dumps(algorithm.state).lower()


def test_non_finite_steps_are_skipped_then_stop(tmp_path: Path) -> None:
    data, model = tiny_data(), tiny_model()
    order = np.tile(ORDER, 3)
    trainer, _ = trainer_for(tmp_path, algorithms()["mtp-baseline"](), model, data, order, micro=8)
    weight = model.backbone.get_input_embeddings().weight
    before = [p.detach().clone() for p in model.parameters()]
    weight.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(TrainingError, match="not finite 3 steps in a row"):
        trainer.train()
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, new)
    report = json.loads((tmp_path / "non_finite.json").read_text())
    assert report == {"step": 2, "samples": [0, 1, 2, 3, 4, 5, 6, 7]}
