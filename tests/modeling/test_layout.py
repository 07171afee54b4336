"""The probe of a model: it leaves no trace, and refuses what the layout does not describe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import tiny_config
from wmtp.errors import CheckpointError
from wmtp.modeling import layout
from wmtp.modeling.layout import probe, recorded_calls
from wmtp.modeling.mtp import MTPModel


def backbone(family: str = "llama", **settings: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(family, **settings))


def test_a_probe_leaves_no_trace() -> None:
    model = backbone("gpt2").train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    before = torch.get_rng_state()
    calls = probe(model, 2)
    assert [call.layer for call in calls] == list(model.transformer.h[1:])
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    hooks = [m for m in model.modules() if m._forward_pre_hooks or m._forward_hooks]
    assert not hooks


@pytest.mark.parametrize("family", ["llama", "gemma2", "mamba"])
def test_half_precision_passes(family: str) -> None:
    assert probe(backbone(family).bfloat16(), 1)


def test_layers_may_be_called_by_keyword() -> None:
    class Layer(nn.Module):
        def forward(self, *, hidden_states: Tensor, scale: float) -> tuple[Tensor]:
            return (scale * hidden_states,)

    layer = Layer()
    with recorded_calls([layer]) as calls:
        layer(hidden_states=torch.ones(1, 2, 3), scale=2.0)
    assert torch.equal(calls[0].hidden, torch.ones(1, 2, 3))
    assert torch.equal(calls[0].on(Layer(), 3 * torch.ones(1, 2, 3)), 6 * torch.ones(1, 2, 3))


def scaled_logits(model: Any) -> None:
    model.config.logit_scale = 2.0  # which the code of Llama does not look at


def another_norm(model: Any) -> None:
    model.model.register_module("ln_f", nn.LayerNorm(32))


def a_layer_twice(model: Any) -> None:
    model.model.layers[1] = model.model.layers[2]


def adapted_unembedding(model: Any) -> None:
    class Adapted(nn.Linear):
        pass

    model.lm_head = Adapted(32, 40, bias=False)


def a_layer_with_memory(model: Any) -> None:
    class Layer(nn.Module):
        count = 0

        def forward(self, hidden: Tensor, **_: Any) -> Tensor:
            self.count += 1
            return self.count * hidden

    model.model.layers[2] = Layer()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (scaled_logits, "its logits are more than"),
        (another_norm, "more than a norm known by name"),
        (a_layer_twice, "do not run once each"),
        (adapted_unembedding, "its unembedding is Adapted, not Linear"),
        (a_layer_with_memory, "depend on more than their arguments"),
    ],
)
def test_what_the_layout_misses_is_refused(change: Callable[[Any], None], reason: str) -> None:
    model = backbone()
    change(model)
    with pytest.raises(CheckpointError, match=f"llama models cannot have future heads: .*{reason}"):
        MTPModel.from_backbone(model)


def test_a_model_needs_a_trunk() -> None:
    with pytest.raises(CheckpointError, match="At least 4 layers are needed"):
        MTPModel.from_config(tiny_config(), num_head_layers=3)


def test_models_of_images_too_are_refused() -> None:
    text = tiny_config("gemma3_text").to_dict()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)
    with pytest.raises(CheckpointError, match="it is more than a text model"):
        MTPModel.from_config(config)


def test_models_that_cannot_run_pass_only_when_their_family_is_tested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with torch.device("meta"):
        absent = backbone()
        assert MTPModel.from_config(tiny_config(), 3).num_heads == 3
    on_cpu = backbone()
    on_cpu.config._attn_implementation = "flash_attention_2"
    for model in (absent, on_cpu):
        assert probe(model, 1) == []
    monkeypatch.setattr(layout, "TESTED", frozenset())
    for model in (absent, on_cpu):
        with pytest.raises(CheckpointError, match="cannot run here, so it is not checked"):
            probe(model, 1)


def test_positions_are_refused_where_nothing_reads_them() -> None:
    model = MTPModel.from_config(tiny_config("bloom"), 2)
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(CheckpointError, match="BloomModel takes no position_ids"):
        model(ids, position_ids=torch.arange(4)[None])
