"""The model: heads learn, checkpoints come back bit for bit, mistakes are named.

What holds for every family is in test_families.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
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


def test_a_trunk_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    for changed, message in (
        ({k: v for k, v in tensors.items() if k != name}, f"1 missing tensors, such as {name}"),
        ({**tensors, "more": tensors[name].clone()}, "1 unexpected tensors, such as more"),
    ):
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=message):
            MTPModel.from_pretrained(tmp_path)
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(CheckpointError, match=r"missing tensors, such as model\.layers\.3"):
        MTPModel.from_pretrained(tmp_path)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="no causal language model could be loaded"):
        MTPModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": "3"}, "num_heads: expected a whole number, found '3'"),
        ({"num_heads": 1000000000}, "num_heads: 1000000000 is above 1024"),
        ({"num_head_layers": 0}, "num_head_layers: 0 is below 1"),
        ({"value_folds": 1000000000}, "value_folds: 1000000000 is above 1024"),
        ({"value_anchored": True}, "value_anchored need a value_head"),
        (
            {"value_head": "mlp", "value_folds": 2, "value_trains_trunk": True},
            "cannot train the trunk",
        ),
        ({"head_type": "sequent"}, "head_type"),
        ({"heads": 3}, "heads"),
    ],
)
def test_settings_of_heads_are_checked(tmp_path: Path, change: dict, message: str) -> None:
    tiny_model().save_pretrained(tmp_path)
    file = tmp_path / "mtp_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(CheckpointError, match=f"mtp_config.json.*{message}"):
        MTPModel.from_pretrained(tmp_path)


def test_heads_may_have_another_dtype_than_the_backbone(tmp_path: Path) -> None:
    model = tiny_model()
    model.backbone.to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    again = MTPModel.from_pretrained(tmp_path).state_dict()
    for name, tensor in model.state_dict().items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor)


def test_weights_known_before_the_loss_see_the_value() -> None:
    model = tiny_model(value_head=True)
    labels = horizon_labels(ids(), 4)
    seen = []

    def weigh(value: torch.Tensor, *_: None) -> torch.Tensor:
        seen.append(value)
        return value.detach()[:, :, None].expand(labels.shape)

    out = model(ids(), labels=labels, weigh=weigh)
    plain = model(ids(), labels=labels)
    assert torch.equal(seen[0], plain.value)
    torch.testing.assert_close(out.ce, plain.ce.detach())
    assert not out.ce.requires_grad
    want = (plain.value.detach()[:, :, None] * plain.ce).sum()
    torch.testing.assert_close(out.weighted_ce, want)


def test_labels_of_another_length_are_refused() -> None:
    labels = horizon_labels(ids(), 4)
    with pytest.raises(ValueError, match=r"must be \[B, S, H\]"):
        tiny_model()(ids(), labels=labels[:, 1:])
    with pytest.raises(ValueError, match="at least 1"):
        MTPModel.from_backbone(tiny_model().backbone, 0)
