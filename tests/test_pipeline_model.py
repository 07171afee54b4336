"""From model settings to the model: heads start as asked for, and settings that do nothing are errors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from wmtp.config.recipe import Recipe
from wmtp.data.tokenizer import train_tokenizer
from wmtp.errors import CheckpointError, ConfigError
from wmtp.modeling.mtp import MTPModel
from wmtp.pipeline.model import build_model

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 3,
    "num_attention_heads": 4,
    "max_positions": 64,
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["def f(x):\n    return x\n"] * 3, 270)


def built(tokenizer: PreTrainedTokenizerBase, **model: Any) -> MTPModel:
    settings: dict[str, Any] = {
        "name": "run",
        "algorithm": {"name": "mtp-baseline"},
        "model": {"num_heads": 3, **model},
        "tokenizer": {"pretrained": "here"},
        "data": {"source": "minicode", "max_length": 64},
        "optimization": {"learning_rate": 1e-3, "global_batch": 4, "steps": 1},
    }
    algorithm: Any = SimpleNamespace(value_head=None)
    return build_model(Recipe(**settings), algorithm, tokenizer)


def first_weights(model: MTPModel) -> list[torch.Tensor]:
    """Return one weight of every head, that of head 0 first."""
    layers = [model.backbone.model.layers[-1], *model.heads]
    return [layer.self_attn.q_proj.weight for layer in layers]


def test_from_scratch(tokenizer: PreTrainedTokenizerBase) -> None:
    zero, one, two = first_weights(built(tokenizer, architecture=SIZES))
    assert not torch.equal(zero, one)
    assert not torch.equal(one, two)
    zero, *others = first_weights(built(tokenizer, architecture=SIZES, head_init="copy"))
    assert all(torch.equal(zero, other) for other in others)
    model = built(tokenizer, architecture=SIZES, num_head_layers=2)
    assert [len(head) for head in model.heads] == [2, 2]
    with pytest.raises(CheckpointError, match="At least 4 layers"):
        built(tokenizer, architecture=SIZES, num_head_layers=3)


def test_from_a_plain_model(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    built(tokenizer, architecture=SIZES).backbone.save_pretrained(tmp_path)
    zero, *others = first_weights(built(tokenizer, pretrained=str(tmp_path)))
    assert all(torch.equal(zero, other) for other in others)
    model = built(tokenizer, pretrained=str(tmp_path), head_init="linear-residual")
    assert not model.heads[0].self_attn.o_proj.weight.any()
    model = built(tokenizer, pretrained=str(tmp_path), num_head_layers=2)
    assert model.num_head_layers == 2


def test_from_a_model_with_heads(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = built(tokenizer, architecture=SIZES, num_head_layers=2)
    model.save_pretrained(tmp_path)
    again = built(tokenizer, pretrained=str(tmp_path), num_head_layers=2)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    with pytest.raises(
        ConfigError, match=r"num_head_layers is 1, .* has 2 head layers\. Set .* to 2"
    ):
        built(tokenizer, pretrained=str(tmp_path))
    with pytest.raises(
        ConfigError, match="head_init is copy, but the checkpoint .* brings its heads"
    ):
        built(tokenizer, pretrained=str(tmp_path), num_head_layers=2, head_init="copy")


def test_sequential_heads(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = built(tokenizer, architecture=SIZES, head_type="sequential")
    assert model.head_type == "sequential"
    model.backbone.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "heads")
    again = built(tokenizer, pretrained=str(tmp_path / "heads"), head_type="sequential")
    assert again.state_dict().keys() == model.state_dict().keys()
    copied = built(tokenizer, pretrained=str(tmp_path / "plain"), head_type="sequential")
    last = model.backbone.model.layers[-1].self_attn.q_proj.weight
    assert torch.equal(copied.heads[1].block.self_attn.q_proj.weight, last)
    with pytest.raises(ConfigError, match=r"head_type is parallel, .* has sequential head type"):
        built(tokenizer, pretrained=str(tmp_path / "heads"))
    with pytest.raises(ValueError, match="sequential heads have 1 layer: num_head_layers is 2"):
        built(tokenizer, architecture=SIZES, head_type="sequential", num_head_layers=2)


@pytest.mark.parametrize("family", ["mistral", "gpt_neox", "gemma2"])
def test_families_from_scratch(tokenizer: PreTrainedTokenizerBase, family: str) -> None:
    model = built(tokenizer, architecture={**SIZES, "family": family})
    assert model.config.model_type == family
    assert model.config.hidden_size == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "lama"}, "no model type 'lama'. Did you mean 'llama'"),
        ({"family": "gpt2"}, "gpt2 has no intermediate_size"),
        ({"family": "gpt_neox", "num_key_value_heads": 2}, "gpt_neox has no num_key_value_heads"),
    ],
)
def test_sizes_that_a_family_does_not_have(
    tokenizer: PreTrainedTokenizerBase, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        built(tokenizer, architecture={**SIZES, **changes})
