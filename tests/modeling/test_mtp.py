"""The model: head 0 is the backbone, heads learn, checkpoints come back bit for bit."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tests.tiny import VOCAB, tiny_config, tiny_model
from wmtp.errors import CheckpointError
from wmtp.losses import horizon_labels
from wmtp.modeling.mtp import MTPModel

FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "qwen2": {},
    "qwen3": {},
    "olmo2": {},
    "smollm3": {},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "gemma2": {"sliding_window": 4, "query_pre_attn_scalar": 8},
}


def ids(batch: int = 2, length: int = 11) -> torch.Tensor:
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> MTPModel:
    torch.manual_seed(0)
    config = tiny_config(request.param, **FAMILIES[request.param])
    return MTPModel.from_config(config, 4).eval()


def test_head_0_is_the_backbone(family: MTPModel) -> None:
    plain = family.backbone(ids()).logits
    assert torch.equal(family(ids()).logits, plain)
    assert torch.equal(family.head_logits(ids())[:, :, 0], plain)


def test_ce_equals_cross_entropy_of_head_logits(family: MTPModel) -> None:
    labels = horizon_labels(ids(), 4)
    out = family(ids(), labels=labels, with_predictions=True)
    logits = family.head_logits(ids())
    want = F.cross_entropy(logits.float().permute(0, 3, 1, 2), labels, reduction="none")
    torch.testing.assert_close(out.ce, want, rtol=1e-5, atol=1e-5)
    assert torch.equal(out.predictions, logits.argmax(-1))
    assert out.logits is None


def test_every_head_is_its_own_layer(family: MTPModel) -> None:
    logits = family.head_logits(ids())
    for k in range(1, 4):
        assert (logits[:, :, 0] - logits[:, :, k]).abs().max() > 1e-3


def test_round_trip(family: MTPModel, tmp_path: Path) -> None:
    family.add_value_head("mlp", train_trunk=True)
    family.save_pretrained(tmp_path)
    again = MTPModel.from_pretrained(tmp_path).eval()
    ours, theirs = family.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert again.value_head.kind == "mlp"
    assert again.value_head.train_trunk
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(plain(ids()).logits, family.backbone(ids()).logits)
    assert not list(tmp_path.glob("*.bin"))


def test_right_padding_changes_nothing(family: MTPModel) -> None:
    padded = F.pad(ids(), (0, 5))
    mask = F.pad(torch.ones_like(ids()), (0, 5))
    labels = horizon_labels(ids(), 4)
    short = family(ids(), labels=labels).ce
    long = family(padded, attention_mask=mask, labels=F.pad(labels, (0, 0, 0, 5), value=-100)).ce
    torch.testing.assert_close(long[:, :11], short, rtol=1e-5, atol=1e-5)
    assert not long[:, 11:].any()


def test_greedy_generation_is_the_backbones(family: MTPModel) -> None:
    family.backbone.generation_config.eos_token_id = None
    out = family.generate(input_ids=ids(1), max_new_tokens=6, do_sample=False)
    tokens = ids(1)
    for _ in range(6):
        tokens = torch.cat([tokens, family(tokens).logits[:, -1].argmax(-1)[:, None]], dim=1)
    assert torch.equal(out, tokens)


def test_copied_heads_start_equal_and_backbone_is_untouched() -> None:
    torch.manual_seed(0)
    backbone = AutoModelForCausalLM.from_config(tiny_config())
    before = copy.deepcopy(backbone.state_dict())
    model = MTPModel.from_backbone(backbone, 3).eval()
    logits = model.head_logits(ids())
    assert torch.equal(logits[:, :, 0], logits[:, :, 1])
    assert torch.equal(logits[:, :, 0], logits[:, :, 2])
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    assert [head.self_attn.layer_idx for head in model.heads] == [3, 4]
    assert MTPModel.from_backbone(backbone, 1).num_heads == 1


def test_from_backbone_reads_a_folder(tmp_path: Path) -> None:
    backbone = AutoModelForCausalLM.from_config(tiny_config())
    backbone.save_pretrained(tmp_path)
    model = MTPModel.from_backbone(tmp_path, 2).eval()
    assert torch.equal(model(ids()).logits, backbone.eval()(ids()).logits)


def test_gradient_checkpointing_changes_nothing() -> None:
    labels = horizon_labels(ids(), 4)
    plain, checkpointed = tiny_model().train(), tiny_model().train()
    checkpointed.checkpoint_activations()
    assert all(head.gradient_checkpointing for head in checkpointed.heads)
    for model in (plain, checkpointed):
        model(ids(), labels=labels).ce.sum().backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


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


def test_a_family_of_another_layout_is_refused() -> None:
    backbone = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=VOCAB))
    with pytest.raises(CheckpointError, match="gpt2: the decoder GPT2Model has no layers or norm"):
        MTPModel.from_backbone(backbone)
    with pytest.raises(CheckpointError, match="At least 2 layers"):
        MTPModel.from_config(tiny_config(num_hidden_layers=1))
    with pytest.raises(ValueError, match="head_type"):
        MTPModel.from_backbone(AutoModelForCausalLM.from_config(tiny_config()), head_type="x")


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
