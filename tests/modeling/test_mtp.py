"""The model: heads learn, checkpoints come back bit for bit, mistakes are named.

What holds for every family is in test_families.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import VOCAB, tiny_config, tiny_model
from wmtp.errors import CheckpointError
from wmtp.losses import horizon_labels
from wmtp.modeling.mtp import MTPModel


def ids(batch: int = 2, length: int = 11) -> torch.Tensor:
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


def test_predictions_are_the_likeliest_tokens_of_every_head() -> None:
    model = tiny_model().eval()
    out = model(ids(), labels=horizon_labels(ids(), 4), with_predictions=True)
    assert torch.equal(out.predictions, model.head_logits(ids()).argmax(-1))
    assert out.logits is None


def test_round_trip_with_value_head(tmp_path: Path) -> None:
    model = tiny_model().eval()
    model.add_value_head("mlp", train_trunk=True)
    model.save_pretrained(tmp_path)
    again = MTPModel.from_pretrained(tmp_path).eval()
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert again.value_head.kind == "mlp"
    assert again.value_head.train_trunk
    assert not list(tmp_path.glob("*.bin"))


def test_padding_has_no_loss() -> None:
    model = tiny_model().eval()
    padded = F.pad(ids(), (0, 5))
    mask = F.pad(torch.ones_like(ids()), (0, 5))
    labels = horizon_labels(ids(), 4)
    short = model(ids(), labels=labels).ce
    long = model(padded, attention_mask=mask, labels=F.pad(labels, (0, 0, 0, 5), value=-100)).ce
    torch.testing.assert_close(long[:, :11], short, rtol=1e-5, atol=1e-5)
    assert not long[:, 11:].any()


def test_from_backbone_reads_a_folder(tmp_path: Path) -> None:
    backbone = AutoModelForCausalLM.from_config(tiny_config())
    backbone.save_pretrained(tmp_path)
    model = MTPModel.from_backbone(tmp_path, 2).eval()
    assert torch.equal(model(ids()).logits, backbone.eval()(ids()).logits)


def test_doubling_a_weight_doubles_its_gradient() -> None:
    model = tiny_model()
    labels = horizon_labels(ids(1), 4)
    grads = []
    for weight in (1.0, 2.0):
        model.zero_grad()
        (weight * model(ids(1), labels=labels).ce[0, 3, 2]).backward()
        grads.append(model.heads[1].mlp.up_proj.weight.grad.clone())
    torch.testing.assert_close(grads[1], 2 * grads[0])


@pytest.mark.parametrize("train_trunk", [True, False])
def test_value_head(train_trunk: bool) -> None:
    model = tiny_model()
    assert model(ids()).value is None
    model.add_value_head("linear", train_trunk)
    value = model(ids()).value
    assert value.shape == (2, 11)
    assert ((value > 0) & (value < 1)).all()
    value.sum().backward()
    trunk_grad = model.backbone.model.layers[0].mlp.up_proj.weight.grad
    assert (trunk_grad is not None) == train_trunk
    assert model.value_head.out.weight.grad is not None


def test_values_see_no_future() -> None:
    model = tiny_model(value_head=True).eval()
    longer = ids().clone()
    longer[:, 8:] = 3
    torch.testing.assert_close(model(ids()).value[:, :8], model(longer).value[:, :8])


def test_other_kinds_of_heads_are_refused() -> None:
    backbone = AutoModelForCausalLM.from_config(tiny_config())
    with pytest.raises(ValueError, match="head_type"):
        MTPModel.from_backbone(backbone, head_type="x")
    with pytest.raises(ValueError, match="head_init 'x' is none of"):
        MTPModel.from_backbone(backbone, head_init="x")


def test_labels_of_another_horizon_are_refused() -> None:
    with pytest.raises(CheckpointError, match="labels have 2 heads, the model has 4"):
        tiny_model()(ids(), labels=horizon_labels(ids(), 2))


def test_damaged_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a wmtp checkpoint"):
        MTPModel.from_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    heads = tmp_path / "mtp_heads.safetensors"
    whole = heads.read_bytes()
    heads.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="the checkpoint is damaged"):
        MTPModel.from_pretrained(tmp_path)
    heads.write_bytes(whole)
    settings = tmp_path / "mtp_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "num_heads": 3}))
    with pytest.raises(CheckpointError, match="do not fit the model"):
        MTPModel.from_pretrained(tmp_path)


def test_no_model_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no causal language model could be loaded"):
        MTPModel.from_backbone(tmp_path)
    AutoConfig.for_model("llama").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no causal language model could be loaded"):
        MTPModel.from_backbone(str(tmp_path))
