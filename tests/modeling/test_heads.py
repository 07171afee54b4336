"""How further heads begin, and heads of several layers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tiny import VOCAB, tiny_config
from wmtp.errors import CheckpointError
from wmtp.losses import horizon_labels
from wmtp.modeling import layout
from wmtp.modeling.mtp import MTPModel


def ids() -> torch.Tensor:
    return torch.randint(3, VOCAB, (2, 8), generator=torch.Generator().manual_seed(1))


def backbone(family: str = "llama", **settings: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(family, **settings)).eval()


def test_copied_heads_start_equal_and_the_backbone_is_untouched() -> None:
    original = backbone()
    before = copy.deepcopy(original.state_dict())
    model = MTPModel.from_backbone(original, 3).eval()
    logits = model.head_logits(ids())
    assert torch.equal(logits[:, :, 0], logits[:, :, 1])
    assert torch.equal(logits[:, :, 0], logits[:, :, 2])
    assert all(torch.equal(before[k], v) for k, v in original.state_dict().items())
    assert [head.self_attn.layer_idx for head in model.heads] == [3, 4]
    assert all(head.self_attn.config is original.config for head in model.heads)
    assert MTPModel.from_backbone(original, 1).num_heads == 1


@pytest.mark.parametrize("family", ["llama", "gemma2", "glm4", "gpt_oss"])
def test_linear_residual_heads_read_the_trunk_as_it_is(family: str) -> None:
    original = backbone(family, num_local_experts=4)
    model = MTPModel.from_backbone(original, 2, head_init="linear-residual", num_head_layers=2)
    with layout.recorded_calls(layout.decoder_layers(original)[1:]) as calls:
        original(ids())
    trunk = calls[0].hidden
    expected = layout.logits_of(original, layout.final_hidden(original, trunk))
    found = model.head_logits(ids())
    assert torch.equal(found[:, :, 1], expected)
    assert not torch.equal(found[:, :, 0], expected)
    # It learns: every layer of the head has a branch that the gradient reaches.
    model(ids(), labels=horizon_labels(ids(), 2)).ce.sum().backward()
    for layer in model.heads[0]:
        assert sum(float(p.grad.abs().sum()) for p in layer.parameters() if p.grad is not None)


def test_linear_residual_is_refused_where_norms_stand_on_the_residual_stream() -> None:
    original = backbone("opt", do_layer_norm_before=False, word_embed_proj_dim=32)
    MTPModel.from_backbone(original, 2)
    with pytest.raises(CheckpointError, match="opt: head_init linear-residual is not possible"):
        MTPModel.from_backbone(original, 2, head_init="linear-residual")


def test_layers_that_know_their_number_are_refused() -> None:
    original = backbone()
    last = original.model.layers[-1]

    class Layer(type(last)):
        def forward(self, hidden: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return super().forward(hidden * self.self_attn.layer_idx, **kwargs)

    last.__class__ = Layer
    with pytest.raises(CheckpointError, match="what a layer does depends on its number"):
        MTPModel.from_backbone(original, 2)


def test_random_heads_follow_the_initialisation_of_the_family() -> None:
    original = backbone("gpt2", hidden_size=64, initializer_range=0.1)
    with torch.no_grad():
        for tensor in original.parameters():
            tensor.fill_(7.0)  # as if trained
    model = MTPModel.from_backbone(original, 3, head_init="random", num_head_layers=2)
    for layer in (*model.heads[0], *model.heads[1]):
        assert layer.attn.c_attn.weight.std().item() == pytest.approx(0.1, rel=0.1)
        # GPT-2 scales what writes to the residual stream by 1 / sqrt(2 * layers).
        assert layer.mlp.c_proj.weight.std().item() == pytest.approx(0.1 / 6**0.5, rel=0.1)
        assert torch.equal(layer.ln_1.weight, torch.ones(64))
        assert not layer.mlp.c_fc.bias.any()
    one, other = (head[0].attn.c_attn.weight for head in model.heads)
    assert not torch.equal(one, other)
    assert (original.transformer.h[2].ln_1.weight == 7).all()


def test_a_family_without_rules_for_a_weight_cannot_start_at_random(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = backbone()
    monkeypatch.setattr(original, "_init_weights", lambda module: None)
    with pytest.raises(CheckpointError, match="no rule to initialise self_attn.q_proj.weight"):
        MTPModel.from_backbone(original, 2, head_init="random")


def test_heads_of_several_layers_come_back(tmp_path: Path) -> None:
    model = MTPModel.from_config(tiny_config("gemma2", sliding_window=4), 3, num_head_layers=2)
    assert model.num_heads == 3
    indices = [[layer.self_attn.layer_idx for layer in head] for head in model.heads]
    assert indices == [[3, 4], [5, 6]]
    model.save_pretrained(tmp_path)
    again = MTPModel.from_pretrained(tmp_path)
    assert (again.num_heads, again.num_head_layers) == (3, 2)
    settings = tmp_path / "mtp_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "num_head_layers": 1}))
    with pytest.raises(CheckpointError, match="do not fit the model"):
        MTPModel.from_pretrained(tmp_path)


def test_checkpoints_from_before_heads_had_several_layers_load(tmp_path: Path) -> None:
    model = MTPModel.from_config(tiny_config(), 2)
    model.save_pretrained(tmp_path)
    assert "heads.0.self_attn.q_proj.weight" in model.state_dict()
    settings = tmp_path / "mtp_config.json"
    old = json.loads(settings.read_text())
    del old["num_head_layers"]
    settings.write_text(json.dumps(old))
    assert MTPModel.from_pretrained(tmp_path).num_head_layers == 1
