"""Gradient norms of heads and statistics by difficulty, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import tiny_data, tiny_model, trainer_for
from wmtp.algorithms.baseline import Baseline
from wmtp.algorithms.rho1 import Rho1
from wmtp.data.encode import EncodedSet
from wmtp.losses import horizon_labels
from wmtp.modeling.heads import HeadType
from wmtp.modeling.lora import add_lora
from wmtp.training.diagnostics import (
    difficulty_edges,
    head_gradient_norms,
    quartile_of_targets,
)
from wmtp.training.meter import Meter

ORDER = np.arange(16)


@pytest.mark.parametrize("head_type", ["parallel", "sequential"])
def test_norms_are_of_what_a_head_has_for_itself(head_type: HeadType) -> None:
    model = tiny_model(num_heads=3, head_type=head_type)
    ids = torch.arange(3, 15).view(1, 12)
    model(ids, labels=horizon_labels(ids, 3)).ce.sum().backward()
    want = {
        k: torch.cat([p.grad.flatten() for p in head.parameters()]).norm()
        for k, head in enumerate(model.heads, start=1)
    }
    if head_type == "parallel":
        last = model.backbone.model.layers[-1]
        want[0] = torch.cat([p.grad.flatten() for p in last.parameters()]).norm()
    found = head_gradient_norms(model)
    assert found.keys() == want.keys()
    for k in want:
        torch.testing.assert_close(found[k], want[k])


def test_only_adapters_of_head_0_have_a_gradient() -> None:
    model = tiny_model(num_heads=2)
    add_lora(model, rank=2, target_modules=["q_proj"])
    ids = torch.arange(3, 15).view(1, 12)
    model(ids, labels=horizon_labels(ids, 2)).ce.sum().backward()
    layer = model.backbone.model.layers[-1].self_attn.q_proj
    torch.testing.assert_close(
        head_gradient_norms(model)[0], layer.lora_B.default.weight.grad.norm()
    )


def test_logged_norms_are_those_before_clipping(tmp_path: Path) -> None:
    """However the step is cut, and only at logging steps."""
    found = []
    for micro, clip in ((8, 1e6), (2, 1e6), (8, 1e-3)):
        trainer, logs = trainer_for(
            tmp_path,
            Baseline(Baseline.Config()),
            tiny_model(),
            tiny_data(),
            ORDER,
            micro=micro,
            accumulation=8 // micro,
            max_grad_norm=clip,
            logging_steps=2,
            learning_rate=0.0,
        )
        trainer.train()
        assert len(logs) == 1
        found.append([logs[0][f"train/grad_norm/head_{k}"] for k in range(4)])
        assert sum(norm**2 for norm in found[-1]) < logs[0]["train/grad_norm"] ** 2
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-4)


def test_edges_are_quartiles_of_learned_tokens() -> None:
    data = tiny_data(3, lengths=(7, 8))
    items = [
        replace(item, ref_ce=np.array([99, 99, 99, 4 * i + 1, 4 * i + 2, 4 * i + 3, 4 * i + 4]))
        for i, item in enumerate(data.items)
    ]
    assert difficulty_edges(EncodedSet(items)) == (3.75, 6.5, 9.25)  # of 1 to 12
    assert difficulty_edges(tiny_data(3, ref=False)) is None
    ref_ce = torch.tensor([[0.0, 3.0, 4.0, 6.5, 9.0, 10.0]])
    quartile = quartile_of_targets(ref_ce, (3.75, 6.5, 9.25), 2)
    assert quartile[0, :, 0].tolist() == [0, 1, 1, 2, 3, 0]
    assert quartile[0, :, 1].tolist() == [1, 1, 2, 3, 0, 0]


def test_means_by_quartile() -> None:
    valid = torch.tensor([[True, True, True, False]])[..., None]
    ce = torch.tensor([[1.0, 2.0, 6.0, 0.0]])[..., None]
    weights = torch.tensor([[0.5, 1.5, 1.0, 0.0]])[..., None]
    quartile = torch.tensor([[3, 3, 0, 0]])[..., None]
    meter = Meter()
    meter.add(ce, weights, valid, torch.tensor(1.0), quartile=quartile)
    meter.end_step(keep=True)
    found = meter.read(lambda x: x, lambda x: x)
    assert {k: v for k, v in found.items() if k.startswith("train/difficulty")} == {
        "train/difficulty/ce/quartile_1": 6.0,
        "train/difficulty/weight/quartile_1": 1.0,
        "train/difficulty/ce/quartile_4": 1.5,
        "train/difficulty/weight/quartile_4": 1.0,
    }
    # Losses that were not computed are in no mean.
    measured = valid & (ce < 2)
    meter.add(ce * measured, weights, valid, torch.tensor(1.0), measured, quartile)
    meter.end_step(keep=True)
    found = meter.read(lambda x: x, lambda x: x)
    assert found["train/difficulty/ce/quartile_4"] == 1.0
    assert "train/difficulty/ce/quartile_1" not in found
    assert found["train/ce/head_0"] == 1.0


def test_difficulty_does_not_depend_on_micro_batches(tmp_path: Path) -> None:
    runs = []
    for micro in (8, 1):
        data = tiny_data()
        trainer, logs = trainer_for(
            tmp_path,
            Rho1(Rho1.Config(reference="unused", always_keep_head_0=False)),
            tiny_model(),
            data,
            ORDER,
            micro=micro,
            accumulation=8 // micro,
        )
        trainer.difficulty_edges = difficulty_edges(data)
        trainer.train()
        runs.append({k: v for k, v in logs[0].items() if k.startswith("train/difficulty")})
    assert len(runs[0]) == 8
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)
    # Rho-1 drops what the reference finds hard too: the policy is untrained, its loss is everywhere alike.
    weights = [runs[0][f"train/difficulty/weight/quartile_{q}"] for q in (1, 2, 3, 4)]
    assert weights[0] > 1.5 > 0.3 > weights[3]
