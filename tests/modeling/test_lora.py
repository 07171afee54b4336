"""Adapters: what trains, what is written, and that training goes on from a checkpoint bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import (
    VOCAB,
    tiny_config,
    tiny_data,
    tiny_model,
    trainer_for,
)
from wmtp.algorithms.critic import Critic
from wmtp.errors import CheckpointError, ConfigError
from wmtp.losses import horizon_labels
from wmtp.modeling.heads import HeadType
from wmtp.modeling.lora import ADAPTER_FILE, add_lora, restore_adapted, save_adapter
from wmtp.modeling.mtp import MTPModel
from wmtp.training.cost import training_flops
from wmtp.training.trainer import MTPTrainer

IDS = torch.randint(3, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))


def adapted(head_type: HeadType = "parallel", tie: bool = False, **lora) -> MTPModel:
    """A model with adapters that are not zero."""
    torch.manual_seed(0)
    config = tiny_config(tie_word_embeddings=tie)
    model = MTPModel.from_config(config, 3, head_type=head_type)
    model.add_value_head("linear", train_trunk=True)
    add_lora(model, **{"rank": 2, "alpha": 8.0, **lora})
    for name, tensor in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(tensor, std=0.1)
    return model


def test_fresh_adapters_change_nothing_and_only_they_and_the_heads_train() -> None:
    model = tiny_model(num_heads=3, value_head=True)
    before = model.head_logits(IDS)
    add_lora(model, rank=2)
    assert torch.equal(model.head_logits(IDS), before)
    training = {name for name, p in model.named_parameters() if p.requires_grad}
    adapters = {name for name in training if ".lora_" in name}
    assert len(adapters) == 3 * 7 * 2  # 3 layers with 7 linear ones each, A and B
    assert {
        name for name in training - adapters if not name.startswith(("heads.", "value_head."))
    } == set()
    others = {
        name for name, _ in model.named_parameters() if name.startswith(("heads.", "value_head."))
    }
    assert others <= training


@pytest.mark.parametrize(("head_type", "tie"), [("parallel", True), ("sequential", False)])
def test_a_saved_model_is_merged(tmp_path: Path, head_type: HeadType, tie: bool) -> None:
    model = adapted(head_type, tie).eval()
    model.save_pretrained(tmp_path)
    assert not (tmp_path / ADAPTER_FILE).exists()
    plain = MTPModel.from_pretrained(tmp_path).eval()
    assert set(plain.state_dict()) == set(tiny_like(head_type, tie).state_dict())
    torch.testing.assert_close(plain.head_logits(IDS), model.head_logits(IDS), rtol=1e-5, atol=1e-6)
    head_0 = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(head_0(IDS).logits, plain(IDS).logits)
    # Exactly base plus adapter.
    layer = model.backbone.model.layers[1].mlp.up_proj
    a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
    want = layer.base_layer.weight + 4.0 * (b @ a)
    assert torch.equal(plain.backbone.model.layers[1].mlp.up_proj.weight, want)


def tiny_like(head_type: HeadType, tie: bool) -> MTPModel:
    model = MTPModel.from_config(tiny_config(tie_word_embeddings=tie), 3, head_type=head_type)
    model.add_value_head("linear", train_trunk=True)
    return model


def test_the_other_layout_of_linear_layers_merges_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCAB}
    tokens = {"bos_token_id": 1, "eos_token_id": 2}
    model = MTPModel.from_config(AutoConfig.for_model("gpt2", **sizes, **tokens), 2)
    add_lora(model, rank=2, target_modules=["c_attn", "mlp.c_fc"])
    for name, tensor in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(tensor, std=0.1)
    model.eval().save_pretrained(tmp_path)
    plain = MTPModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(plain.head_logits(IDS), model.head_logits(IDS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recompute", [None, "heads", "all"])
def test_gradients_are_those_of_the_merged_weights(tmp_path: Path, recompute) -> None:
    """By the chain rule on W + s B A; the frozen rest has none, whichever path the loss takes."""
    model = adapted().train()
    if recompute:
        model.checkpoint_activations(recompute)
    labels = horizon_labels(IDS, 3)
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) * (
        labels != -100
    )
    model.save_pretrained(tmp_path)
    plain = MTPModel.from_pretrained(tmp_path).train()
    (plain(IDS, labels=labels).ce * weights).sum().backward()
    layer, same = (m.backbone.model.layers[0].self_attn.q_proj for m in (model, plain))
    a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
    for known in (True, False):
        model.zero_grad()
        if known:
            model(IDS, labels=labels, weigh=lambda *_: weights).weighted_ce.backward()
        else:
            (model(IDS, labels=labels).ce * weights).sum().backward()
        torch.testing.assert_close(a.grad, 4 * b.T @ same.weight.grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(b.grad, 4 * same.weight.grad @ a.T, rtol=1e-3, atol=1e-5)
        head, head_alone = (m.heads[1].mlp.up_proj.weight.grad for m in (model, plain))
        torch.testing.assert_close(head, head_alone, rtol=1e-3, atol=1e-5)
        frozen = [p for p in model.parameters() if not p.requires_grad]
        assert model.backbone.get_output_embeddings().weight in set(frozen)
        assert all(p.grad is None for p in frozen)


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    def trainer(folder: str, seed: int) -> tuple[MTPTrainer, list[dict[str, float]]]:
        model = tiny_model(num_heads=3, value_head=True)
        torch.manual_seed(seed)
        add_lora(model, rank=2, dropout=0.1)
        critic = Critic(Critic.Config(value_phase={"share": 0.4}))
        saving = {"micro": 4, "save_strategy": "steps", "save_steps": 2}
        return trainer_for(tmp_path / folder, critic, model, tiny_data(), np.arange(16), **saving)

    whole, logs = trainer("whole", 0)
    whole.train()
    again, later = trainer("again", 1)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert [log["train/loss"] for log in later] == [log["train/loss"] for log in logs[2:]]
    first, second = (t.policy.state_dict() for t in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    head_0 = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "checkpoint-4").eval()
    torch.testing.assert_close(
        head_0(IDS).logits, whole.policy.eval()(IDS).logits, rtol=1e-4, atol=1e-5
    )


def test_a_checkpoint_on_another_base_is_refused(tmp_path: Path) -> None:
    model = adapted()
    model.save_pretrained(tmp_path)
    saved = MTPModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"{ADAPTER_FILE}: cannot be read"):
        restore_adapted(model, saved, tmp_path)
    save_adapter(model, tmp_path)
    restore_adapted(model, saved, tmp_path)
    with pytest.raises(CheckpointError, match="adapts other layers"):
        restore_adapted(adapted(target_modules=["q_proj"]), saved, tmp_path)
    other = adapted()
    torch.nn.init.zeros_(other.backbone.model.norm.weight)
    with pytest.raises(CheckpointError, match=r"another base .*norm\.weight differs"):
        restore_adapted(other, saved, tmp_path)


def test_names_that_fit_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    with pytest.raises(ConfigError, match="'q_porj'. Did you mean 'q_proj'"):
        add_lora(model, target_modules=["v_proj", "q_porj"])
    with pytest.raises(ConfigError, match="'lm_head'"):  # the unembedding is frozen
        add_lora(model, target_modules=["lm_head"])
    add_lora(model, target_modules=["self_attn.q_proj"])
    assert sum(".lora_A." in name for name, _ in model.named_parameters()) == 3
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'wmtp\[lora\]'"):
        add_lora(tiny_model())


def test_frozen_weights_cost_two_thirds() -> None:
    model = tiny_model(num_heads=1)
    whole = training_flops(model, 10, 0.0)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert training_flops(model, 10, 0.0) == pytest.approx(2 / 3 * whole)
