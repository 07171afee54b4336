"""The training step: absolute values, accumulation, processes, padding, resumption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.tiny import tiny_data, tiny_model, trainer_for
from wmtp.algorithms.base import Algorithm
from wmtp.algorithms.baseline import Baseline
from wmtp.algorithms.critic import Critic
from wmtp.algorithms.gradient_importance import GradientImportance
from wmtp.algorithms.high_entropy import HighEntropy
from wmtp.algorithms.hybrid import Hybrid
from wmtp.algorithms.oracle import Oracle
from wmtp.algorithms.random_matched import RandomMatched
from wmtp.algorithms.rho1 import Rho1
from wmtp.algorithms.shuffled import Shuffled
from wmtp.data.collate import Collate
from wmtp.errors import CheckpointError, TrainingError
from wmtp.modeling.mtp import MTPModel
from wmtp.training.checkpoints import latest_checkpoint
from wmtp.training.coefficients import HeadCoefficients
from wmtp.training.importance import input_importance

ORDER = np.arange(16)


def algorithms():
    return {
        "mtp-baseline": lambda: Baseline(Baseline.Config()),
        "rho1-wmtp": lambda: Rho1(Rho1.Config(reference="unused", always_keep_head_0=False)),
        "critic-wmtp": lambda: Critic(Critic.Config(trunk="trained", value_phase={"share": 0.4})),
        "critic-clipped": lambda: Critic(
            Critic.Config(value_head="mlp", value_clip=0.01, value_phase={"share": 0.25})
        ),
        "critic-pairwise": lambda: Critic(
            Critic.Config(value_loss="pairwise", cross_fit=3, value_phase={"share": 0.4})
        ),
        "shuffled": lambda: Shuffled(
            Shuffled.Config(of={"name": "rho1-wmtp", "reference": "unused"}), seed=7
        ),
        "random-matched critic": lambda: RandomMatched(
            RandomMatched.Config(
                of={"name": "critic-wmtp", "cross_fit": 2, "value_phase": {"share": 0.4}}
            )
        ),
        "oracle": lambda: Oracle(Oracle.Config(of={"name": "focal"})),
        "by token": lambda: Rho1(Rho1.Config(reference="unused", select_by="token")),
        "high-entropy": lambda: HighEntropy(HighEntropy.Config(keep=0.3)),
        "gradient-importance": lambda: GradientImportance(
            GradientImportance.Config(every_n_steps=3)
        ),
        "hybrid": lambda: Hybrid(
            Hybrid.Config(
                first={"name": "critic-wmtp", "value_phase": {"share": 0.2, "policy_loss": True}},
                second={"name": "rho1-wmtp", "reference": "unused"},
            )
        ),
    }


def model_for(algorithm: Algorithm[Any], seed: int = 0) -> MTPModel:
    """Return a tiny model with the value head that the scheme asks for."""
    model = tiny_model(seed=seed)
    if algorithm.value_head is not None:
        kind, train_trunk, num_folds, anchored, _ = algorithm.value_head
        model.add_value_head(kind, train_trunk, num_folds)
        if anchored:
            model.anchor_value()
    return model


def train(folder: Path, name: str, micro: int, accumulation: int, order=ORDER, **arguments):
    algorithm = algorithms()[name]()
    model = model_for(algorithm)
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
    least = 2 if name == "critic-pairwise" else 1  # whole pairs
    both_phases = algorithms()[name]().value_phase_steps(6) is not None
    order = np.tile(ORDER, 3) if both_phases else ORDER
    runs = [train(tmp_path, name, micro, 8 // micro, order)[1] for micro in (8, least, 4)]
    losses = np.array([[log["train/loss"] for log in logs] for logs in runs])
    assert losses.shape == (3, len(order) // 8)
    np.testing.assert_allclose(losses[1:], losses[[0, 0]], rtol=5e-5)
    for key in runs[0][-1]:
        if key.startswith(("train/value", "train/weight/share")):
            found = [logs[-1][key] for logs in runs]
            assert found == pytest.approx([found[0]] * 3, rel=1e-3, abs=5e-4), key


def test_keeping_all_trains_as_the_baseline_bit_for_bit(tmp_path: Path) -> None:
    logs, weights = [], []
    for algorithm in (
        Baseline(Baseline.Config()),
        Rho1(Rho1.Config(reference="unused", keep=1, always_keep_head_0=False)),
        Rho1(Rho1.Config(reference="unused", keep=1, select_by="token")),
    ):
        trainer, log = trainer_for(tmp_path, algorithm, tiny_model(), tiny_data(), ORDER, micro=4)
        trainer.train()
        logs.append([step["train/loss"] for step in log])
        weights.append(list(trainer.policy.state_dict().values()))
    assert len(logs[0]) == 4
    assert logs[1:] == [logs[0], logs[0]]
    for other in weights[1:]:
        assert all(torch.equal(a, b) for a, b in zip(weights[0], other, strict=True))


def test_tokens_chosen_before_or_after_the_loss_train_alike(tmp_path: Path) -> None:
    """The losses of dropped targets are never computed, and nothing else changes."""
    found = []
    for early in (True, False):
        algorithm = algorithms()["by token"]()
        assert algorithm.uses_ce == "head_0"
        algorithm.uses_ce = "head_0" if early else "all"
        trainer, logs = trainer_for(tmp_path, algorithm, tiny_model(), tiny_data(), ORDER, micro=8)
        trainer.train()
        found.append(logs)
    for one, two in zip(*found, strict=True):
        for name in ("train/loss", "train/ce/head_0", "train/weight/zero_share/head_2"):
            assert one[name] == pytest.approx(two[name], rel=1e-5)
    # What is logged of a further head is the mean over the kept targets: those that cost more.
    assert found[0][0]["train/ce/head_1"] != pytest.approx(found[1][0]["train/ce/head_1"], rel=1e-4)


@pytest.mark.parametrize("name", ["mtp-baseline", "rho1-wmtp", "by token"])
def test_head_coefficients_scale_the_loss_of_each_head(tmp_path: Path, name: str) -> None:
    """lambda_k multiplies what a head adds to the loss and its gradient, whatever the scheme."""
    inputs = Collate(4, 0)(list(enumerate(tiny_data(6).items)))
    number = int((inputs["labels"] != -100).sum())

    def loss_with(values: tuple[float, ...]) -> torch.Tensor:
        algorithm, model = algorithms()[name](), tiny_model().eval()
        trainer, _ = trainer_for(tmp_path, algorithm, model, tiny_data(6), np.arange(6), micro=6)
        trainer.head_coefficients = HeadCoefficients((1.0,) * 4, values, 0.5, 0.5)
        trainer._num_completion = float(inputs["completion"].sum())
        trainer.state.max_steps, trainer.state.global_step = 10, 5
        loss = trainer.compute_loss(model, inputs, num_items_in_batch=number)
        loss.backward()
        grad = model.backbone.get_output_embeddings().weight.grad
        return torch.cat([loss.detach()[None], grad.flatten()])

    alone = [loss_with(tuple(float(k == h) for k in range(4))) for h in range(4)]
    mixed = loss_with((1.0, 0.3, 0.2, 0.0))
    want = alone[0] + 0.3 * alone[1] + 0.2 * alone[2]
    torch.testing.assert_close(mixed, want, rtol=1e-4, atol=1e-6)


def test_coefficients_by_hand() -> None:
    step = HeadCoefficients((1.0, 0.3), (1.0, 0.1), 0.67, 0.67)
    assert [step.at(n, 100) for n in (0, 66, 67, 99)] == [[1.0, 0.3]] * 2 + [[1.0, 0.1]] * 2
    line = HeadCoefficients((1.0, 0.4), (1.0, 0.2), 0.2, 0.6)
    assert [line.at(n, 10)[1] for n in (2, 4, 6)] == pytest.approx([0.4, 0.3, 0.2])


@pytest.mark.parametrize("heads", ["parallel", "sequential"])
def test_importance_is_the_gradient_to_the_embeddings(heads: str) -> None:
    """Against the gradient of a plain sum of losses, with embeddings that each position has of its own."""
    model = tiny_model(3, head_type=heads).double().eval()
    inputs = Collate(3, 0)(list(enumerate(tiny_data(2).items)))
    ids = inputs["input_ids"]
    table = model.backbone.get_input_embeddings()
    vectors = table.weight.detach()[ids]
    found = input_importance(model, input_ids=ids, labels=inputs["labels"])
    assert found.shape == ids.shape
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not table._forward_hooks

    def loss_of(vectors: torch.Tensor) -> float:
        hook = table.register_forward_hook(lambda *_: vectors)
        with torch.no_grad():
            ce = model(ids, labels=inputs["labels"]).ce
        hook.remove()
        return float(ce.sum())

    want = 0.0
    for d in range(vectors.shape[-1]):
        shift = torch.zeros_like(vectors)
        shift[1, 4, d] = 1e-5
        want += abs(loss_of(vectors + shift) - loss_of(vectors - shift)) / 2e-5
    assert found[1, 4].item() == pytest.approx(want, rel=1e-3)


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
        model = model_for(algorithm).eval()
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


@pytest.mark.parametrize(
    "name", ["critic-wmtp", "critic-clipped", "shuffled", "gradient-importance", "hybrid"]
)
def test_resumed_equals_uninterrupted(tmp_path: Path, name: str) -> None:
    order = np.concatenate([ORDER, ORDER[::-1]])
    saving = {"save_strategy": "steps", "save_steps": 3, "micro": 4, "accumulation": 1}
    algorithm = algorithms()[name]()
    whole, logs = train(tmp_path / "whole", name, 4, 1, order, save_strategy="steps", save_steps=3)
    saved = tmp_path / "whole" / "checkpoint-3"
    assert latest_checkpoint(tmp_path / "whole").name == "checkpoint-8"
    model = model_for(algorithm, seed=99)
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


def parameters(model: MTPModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("policy_loss", [False, True])
def test_the_policy_rests_in_phase_value(tmp_path: Path, policy_loss: bool) -> None:
    """The value head alone moves: no weight decay, no momentum for what the loss does not reach."""
    phase = {"share": 1.0, "policy_loss": policy_loss}
    algorithm = Critic(Critic.Config(value_phase=phase))
    model = model_for(algorithm)
    before = parameters(model)
    trainer, _ = trainer_for(
        tmp_path, algorithm, model, tiny_data(), ORDER, micro=8, weight_decay=0.5
    )
    trainer.train()
    moved = {name for name, p in parameters(model).items() if not torch.equal(p, before[name])}
    value = {name for name in before if name.startswith("value_head")}
    assert moved == (set(before) if policy_loss else value)


def test_a_frozen_value_head_rests_in_phase_policy(tmp_path: Path) -> None:
    algorithm = Critic(Critic.Config(value_phase={"share": 0.5}, value_coef=0.0))
    model = model_for(algorithm)
    trainer, _ = trainer_for(
        tmp_path, algorithm, model, tiny_data(), np.tile(ORDER, 2), micro=8, weight_decay=0.5
    )
    seen = []
    trainer.on_value_phase_end = lambda policy: seen.append(parameters(policy))
    trainer.train()
    (before,) = seen
    after = parameters(model)
    for name, old in before.items():
        assert torch.equal(old, after[name]) == name.startswith("value_head"), name


def test_the_anchor_is_the_value_head_of_the_end_of_phase_value(tmp_path: Path) -> None:
    algorithm = algorithms()["critic-clipped"]()
    model = model_for(algorithm)
    start = parameters(model)
    trainer, _ = trainer_for(
        tmp_path, algorithm, model, tiny_data(), np.tile(ORDER, 2), micro=8, save_strategy="no"
    )
    seen = []
    trainer.on_value_phase_end = lambda policy: seen.append(parameters(policy))
    trainer.train()
    (then,) = seen
    for name, p in model.value_anchor.named_parameters():
        assert torch.equal(p, then[f"value_head.{name}"]), name
        assert not torch.equal(p, model.value_head.get_parameter(name)), name
        assert not torch.equal(p, start[f"value_head.{name}"]), name
    model.save_pretrained(tmp_path / "saved")
    again = MTPModel.from_pretrained(tmp_path / "saved")
    assert not any(p.requires_grad for p in again.value_anchor.parameters())
    ids = torch.arange(3, 13)[None]
    assert torch.equal(again.eval()(ids).value_anchor, model.eval()(ids).value_anchor)
