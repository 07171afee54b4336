"""Sequential heads in plain transformers: it loads them, drafts what they predict, and takes the drafts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, cache_utils, modeling_layers

from tests.modeling.test_families import FAMILIES
from tests.tiny import VOCAB, tiny_config, tiny_model
from wmtp.errors import CheckpointError, ConfigError
from wmtp.losses import horizon_labels
from wmtp.modeling.meta_export import write_meta
from wmtp.modeling.mtp import MTPModel
from wmtp.pipeline.convert import Conversion, convert

drafting = pytest.mark.skipif(
    not hasattr(modeling_layers, "MtpModel"),
    reason="this transformers has no generate(use_mtp=True)",
)


def model_of(family: str, num_heads: int, **settings: Any) -> MTPModel:
    """Return a model whose heads differ and whose weights are large enough to have opinions."""
    model_type, special = FAMILIES[family]
    config = tiny_config(model_type, **{**special, "eos_token_id": None, **settings})
    torch.manual_seed(0)
    model = MTPModel.from_config(config, num_heads, head_type="sequential").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def exported(model: MTPModel, folder: Path) -> tuple[Any, Conversion]:
    """Return what transformers loads of the converted model, told what the notices say."""
    model.save_pretrained(folder / "native")
    done = convert("hf", folder / "native", folder / "hf")
    plain = AutoModelForCausalLM.from_pretrained(folder / "hf").eval()
    for notice in done.notices:
        if "use_mtp" in notice:
            exec(notice.split(": ", 1)[1], {"model": plain})
    return plain, done


def drafts(plain: Any, context: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens that transformers drafts after `context` and one more token, and their logits."""
    drafter = modeling_layers.MtpModel.from_pretrained(plain)
    cache = cache_utils.MtpCache(config=plain.config.get_mtp_config())
    tokens, logits, _ = drafter(
        input_ids=context[:, 1:],
        last_hidden_states=plain.model(context[:, :-1]).last_hidden_state,
        attention_mask=torch.ones_like(context[:, 1:]),  # transformers 5.17 needs one
        position_ids=torch.arange(1, context.shape[1])[None],
        mtp_cache=cache,
    )
    return tokens, logits


# transformers looks for heads under the layer numbers of released models: 46 is one of GLM-4-MoE.
@drafting
@pytest.mark.parametrize(
    ("family", "num_heads", "settings"),
    [
        ("GLM-4-MoE", 2, {"num_hidden_layers": 46, "first_k_dense_replace": 45}),
        ("GLM-4-MoE", 3, {"tie_word_embeddings": True}),
        ("DeepSeek-V3", 4, {}),
    ],
)
def test_transformers_drafts_what_the_heads_predict(
    family: str, num_heads: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = model_of(family, num_heads, **settings)
    plain, done = exported(model, tmp_path)
    assert done.num_heads == num_heads
    assert any("use_mtp" in notice for notice in done.notices) == (
        "num_hidden_layers" not in settings
    )
    assert plain.config.num_nextn_predict_layers == num_heads - 1
    context = torch.randint(3, VOCAB, (1, 8), generator=torch.Generator().manual_seed(3))
    assert torch.equal(plain(context).logits, model(context).logits)
    tokens, logits = drafts(plain, context)
    ours = model.head_logits(torch.cat([context, tokens], dim=1))[:, 6, 1:]
    torch.testing.assert_close(logits, ours, rtol=1e-5, atol=1e-6)
    settings = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(
        plain.generate(context, **settings, use_mtp=True), plain.generate(context, **settings)
    )


@drafting
def test_drafts_of_trained_heads_are_accepted(tmp_path: Path) -> None:
    model = model_of("DeepSeek-V3", 3).train()
    text = torch.arange(3, 19)[None]
    labels = horizon_labels(text, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(text, labels=labels).ce.sum(dim=(0, 1)) / (labels != -100).sum(dim=(0, 1))
        loss.sum().backward()
        optimizer.step()
    assert (loss < 0.1).all()
    plain, _ = exported(model, tmp_path)
    forwards: list[int] = []
    plain.register_forward_hook(lambda *_: forwards.append(1))
    found = plain.generate(text[:, :4], max_new_tokens=12, do_sample=False, use_mtp=True)
    assert torch.equal(found, text)
    assert len(forwards) < 7  # all drafts accepted: one token, then three at a time


def test_the_layout_is_that_of_the_releases(tmp_path: Path) -> None:
    model = model_of("DeepSeek-V3", 2)
    exported(model, tmp_path)
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    names = {name.removeprefix("model.layers.3.") for name in tensors if "layers.3." in name}
    own = {"enorm", "hnorm", "eh_proj", "shared_head.norm", "shared_head.head", "embed_tokens"}
    layer = {name.removeprefix("model.layers.2.") for name in tensors if "layers.2." in name}
    assert names == layer | {f"{name}.weight" for name in own}
    assert "mlp.experts.3.down_proj.weight" in names
    head = model.heads[0]
    assert torch.equal(tensors["model.layers.3.shared_head.norm.weight"], head.post_norm.weight)
    assert torch.equal(
        tensors["model.layers.3.embed_tokens.weight"], tensors["model.embed_tokens.weight"]
    )
    assert torch.equal(tensors["model.layers.3.shared_head.head.weight"], tensors["lm_head.weight"])
    assert model.config.num_nextn_predict_layers == 1
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "2 sequential heads ([DeepSeek-V3]" in card
    assert "multi-token-prediction" in card
    assert re.search(r"use_mtp=True\)` drafts .*; .*= \[r\"model\\.layers\\.\(3\)\\.\"\]", card)


@pytest.mark.parametrize("family", ["DeepSeek-V3", "GLM-4-MoE"])
def test_a_folder_of_that_layout_comes_back_with_its_heads(family: str, tmp_path: Path) -> None:
    model = model_of(family, 3)
    exported(model, tmp_path)
    done = convert("native", tmp_path / "hf", tmp_path / "back")
    assert (done.source_layout, done.num_heads, done.notices[1:]) == ("hf", 3, [])
    back = MTPModel.from_pretrained(tmp_path / "back").state_dict()
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ConfigError, match="has 3 heads"):
        convert("native", tmp_path / "hf", tmp_path / "more", num_heads=4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.layers.4.hnorm.weight", "layer 4 lacks hnorm.weight"),
        ("model.layers.3.input_layernorm.weight", "1 missing tensors"),
        ("model.layers.3.shared_head.head.weight", "layer 3 has its own shared_head.head.weight"),
    ],
)
def test_heads_there_in_part_are_refused(name: str, message: str, tmp_path: Path) -> None:
    exported(model_of("DeepSeek-V3", 3), tmp_path)
    file = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(file)
    if "shared" in name:
        tensors[name] = tensors[name] + 1
    else:
        del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        convert("native", tmp_path / "hf", tmp_path / "back")


def test_a_copy_without_the_heads_is_a_plain_model(tmp_path: Path) -> None:
    exported(model_of("DeepSeek-V3", 3), tmp_path)
    file = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(file)
    kept = {k: v for k, v in tensors.items() if not re.match(r"model\.layers\.[34]\.", k)}
    save_file(kept, file, metadata={"format": "pt"})
    assert convert("native", tmp_path / "hf", tmp_path / "plain").num_heads == 1


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("Llama", {}, "in hf only deepseek_v3 and glm4_moe have sequential heads"),
        ("DeepSeek-V3", {"first_k_dense_replace": 3}, "their layers are dense"),
    ],
)
def test_what_transformers_has_no_place_for_is_left_out(
    family: str, settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    plain, done = exported(model_of(family, 3, **settings), tmp_path)
    assert done.num_heads == 1
    assert any(f"heads 1 to 2 were left out: {reason}" in notice for notice in done.notices)
    assert set(load_file(tmp_path / "hf" / "model.safetensors")) == set(
        load_file(tmp_path / "native" / "model.safetensors")
    )
    assert "It predicts the next token." in (tmp_path / "hf" / "README.md").read_text()
    context = torch.arange(3, 9)[None]
    assert torch.equal(
        plain(context).logits, MTPModel.from_pretrained(tmp_path / "native")(context).logits
    )


def test_metas_layout_has_no_place_for_them(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="its heads are sequential"):
        write_meta(tiny_model(2, head_type="sequential"), tmp_path)
