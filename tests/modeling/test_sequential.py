"""Sequential heads: the equation of DeepSeek-V3, what each row may know, and all that parallel heads do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tests.modeling import test_families as families
from tests.tiny import VOCAB, tiny_config, tiny_data, tiny_model, trainer_for
from wmtp.algorithms.baseline import Baseline
from wmtp.errors import CheckpointError
from wmtp.losses import horizon_labels
from wmtp.modeling import layout, sequential
from wmtp.modeling.heads import HeadInit
from wmtp.modeling.mtp import MTPModel
from wmtp.training.cost import training_flops

HEADS = 3
FAMILIES = ["Llama", "Qwen3", "DeepSeek-V3", "GLM-4-MoE", "Gemma 3 (text)", "Cohere 2", "Falcon-H1"]
WITHOUT = {
    *("GPT-2", "GPT-BigCode", "GPT-Neo", "GPT-J", "CodeGen", "OPT", "Bloom", "MPT"),
    *("Mamba", "Mamba 2", "Jamba"),
}


def ids(batch: int = 2, length: int = 9) -> Tensor:
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


def model_of(family: str) -> MTPModel:
    model_type, settings = families.FAMILIES[family]
    torch.manual_seed(0)
    config = tiny_config(model_type, **settings)
    return MTPModel.from_config(config, HEADS, head_type="sequential").eval()


def tiny(num_heads: int = HEADS, **settings: Any) -> MTPModel:
    return tiny_model(num_heads, head_type="sequential", **settings)


# ---- the equation, in loops ---------------------------------------------------------------------


def norm(module: nn.Module, row: Tensor) -> Tensor:
    return module.weight * row / torch.sqrt((row * row).mean() + 1e-6)


def rotated(row: Tensor, position: int) -> Tensor:
    """Rotate one attention head of width 8: feature i with feature i + 4."""
    angles = torch.tensor([position * 10000.0 ** (-i / 4) for i in range(4)], dtype=row.dtype)
    a, b = row[:4], row[4:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin])


def layer_rows(layer: Any, rows: list[Tensor], positions: list[int]) -> list[Tensor]:
    """One layer of Llama with 4 query and 2 key/value heads, a row and a head at a time."""
    keys: list[list[Tensor]] = []
    values: list[list[Tensor]] = []
    out = []
    for row, position in zip(rows, positions, strict=True):
        normed = norm(layer.input_layernorm, row)
        queries = (layer.self_attn.q_proj.weight @ normed).split(8)
        keys.append(
            [rotated(k, position) for k in (layer.self_attn.k_proj.weight @ normed).split(8)]
        )
        values.append(list((layer.self_attn.v_proj.weight @ normed).split(8)))
        mixed = []
        for h, query in enumerate(queries):
            query = rotated(query, position)
            scores = torch.stack([query @ key[h // 2] / 8**0.5 for key in keys]).softmax(0)
            mixed.append(sum(s * value[h // 2] for s, value in zip(scores, values, strict=True)))
        row = row + layer.self_attn.o_proj.weight @ torch.cat(mixed)
        normed = norm(layer.post_attention_layernorm, row)
        gate, up = layer.mlp.gate_proj.weight @ normed, layer.mlp.up_proj.weight @ normed
        out.append(row + layer.mlp.down_proj.weight @ (F.silu(gate) * up))
    return out


def expected_ce(model: MTPModel, tokens: list[int]) -> dict[tuple[int, int], Tensor]:
    """Return the cross entropy of every (position, head) that has a target."""
    decoder, length = model.backbone.model, len(tokens)
    embed = decoder.embed_tokens.weight
    rows = [embed[token] for token in tokens]
    for layer in decoder.layers:
        rows = layer_rows(layer, rows, list(range(length)))
    previous = [norm(decoder.norm, row) for row in rows]
    found = {}
    for k in range(model.num_heads):
        if k > 0:
            head = model.heads[k - 1]
            fused = []
            for t in range(length - k):  # rows that have no x[t + k] do not exist here
                both = [norm(head.enorm, embed[tokens[t + k]]), norm(head.hnorm, previous[t])]
                fused.append(head.eh_proj.weight @ torch.cat(both))
            rows = layer_rows(head.block, fused, [t + k for t in range(length - k)])
            previous = [norm(head.post_norm, row) for row in rows]
        for t in range(length - k - 1):
            logits = model.backbone.lm_head.weight @ previous[t]
            found[t, k] = -logits.log_softmax(0)[tokens[t + k + 1]]
    return found


def test_values_and_gradients_are_those_of_the_equation() -> None:
    model = tiny(4).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    tokens = ids(1, 7)
    labels = horizon_labels(tokens, 4)
    weights = torch.rand(labels.shape, dtype=torch.float64)
    ce = model(tokens, labels=labels).ce
    expected = expected_ce(model, tokens[0].tolist())
    assert int((labels != -100).sum()) == len(expected) == 6 + 5 + 4 + 3
    for (t, k), value in expected.items():  # transformers' norms and angles are float32
        assert ce[0, t, k].item() == pytest.approx(value.item(), rel=1e-6)
    found = torch.autograd.grad((weights * ce).sum(), list(model.parameters()))
    total = sum(weights[0, t, k] * value for (t, k), value in expected.items())
    wanted = torch.autograd.grad(total, list(model.parameters()))
    for (name, _), one, other in zip(model.named_parameters(), found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)


def test_one_head_is_the_plain_model() -> None:
    model = tiny(1).eval()
    labels = horizon_labels(ids(), 1)
    plain = model.backbone(ids()).logits
    assert torch.equal(model(ids()).logits, plain)
    expected = F.cross_entropy(
        plain[:, :-1].flatten(0, 1), ids()[:, 1:].flatten(), reduction="none"
    )
    torch.testing.assert_close(model(ids(), labels=labels).ce[:, :-1, 0].flatten(), expected)


# ---- families -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_row_knows_the_tokens_up_to_t_plus_k_or_the_family_is_refused(family: str) -> None:
    if family in WITHOUT:
        with pytest.raises(CheckpointError, match=r"cannot have sequential heads: .* head_type"):
            model_of(family)
        return
    model, changed = model_of(family), ids()
    changed[:, 6:] = (changed[:, 6:] + 1) % VOCAB
    before, after = model.head_logits(ids()), model.head_logits(changed)
    for k in range(HEADS):
        torch.testing.assert_close(before[:, : 6 - k, k], after[:, : 6 - k, k])
        assert (before[:, 6 - k, k] - after[:, 6 - k, k]).abs().amax(-1).min() > 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_what_holds_for_parallel_heads_holds(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    model.save_pretrained(tmp_path)
    assert families.head_0_is_exact(model, tmp_path)
    assert families.gradients_are_those_of_autograd(model, tmp_path)
    assert families.plain_model_loads(model, tmp_path)
    assert families.round_trip_is_exact(model, tmp_path)
    assert families.attention_kernels_agree(model, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family: str) -> None:
    model = model_of(family)
    labels, mask = horizon_labels(ids(), HEADS), torch.ones_like(ids())
    expected = model(ids(), labels=labels).ce
    for left, right in ((0, 3), (3, 0)):
        positions = F.pad(torch.arange(9).expand(2, -1), (left, right))
        for fill in (0, 5):  # whatever padding holds
            found = model(
                F.pad(ids(), (left, right), value=fill),
                F.pad(mask, (left, right)),
                positions,
                F.pad(labels, (0, 0, left, right), value=-100),
            ).ce
            torch.testing.assert_close(found[:, left : left + 9], expected)
            assert not found[:, :left].any()
            assert not found[:, left + 9 :].any()


@pytest.mark.parametrize("family", ["Llama", "DeepSeek-V3"])
def test_packed_documents_are_those_alone(family: str) -> None:
    model = model_of(family)
    lengths = (5, 4)
    documents = torch.tensor([[0] * 5 + [1] * 4])
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    packed = model(
        ids(1), position_ids=positions, labels=horizon_labels(ids(1), HEADS, documents)
    ).ce
    for part, rows in zip(ids(1).split(lengths, 1), packed.split(lengths, 1), strict=True):
        torch.testing.assert_close(rows, model(part, labels=horizon_labels(part, HEADS)).ce)


def test_blocks_get_the_rotary_embedding_of_the_token_that_they_read() -> None:
    model = tiny()
    with layout.recorded_calls([head.block for head in model.heads]) as calls:
        model.head_logits(ids())
    for k, call in enumerate(calls, start=1):
        positions = torch.arange(9)[None]
        expected = model.backbone.model.rotary_emb(call.hidden, positions + k)
        assert all(map(torch.equal, call.kwargs["position_embeddings"], expected))
        assert torch.equal(call.kwargs["position_ids"], positions)


def test_a_model_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="read positions otherwise"):
        MTPModel.from_config(tiny_config("ministral3"), head_type="sequential")
    original = AutoModelForCausalLM.from_config(tiny_config())
    with monkeypatch.context() as patch:
        patch.setattr(layout, "_can_run", lambda backbone: False)
        assert MTPModel.from_backbone(original, 2, "sequential").num_heads == 2
        patch.setattr(sequential, "_TESTED", set())
        with pytest.raises(CheckpointError, match="cannot run here"):
            MTPModel.from_backbone(original, 2, "sequential")
    rotary = original.model.rotary_emb
    with monkeypatch.context() as patch:
        calls: list[int] = []

        def forward(x: Tensor, position_ids: Tensor, old: Any = rotary.forward) -> Any:
            calls.append(1)
            return old(x, position_ids + len(calls))

        patch.setattr(rotary, "forward", forward)
        with pytest.raises(CheckpointError, match="depends on more than positions"):
            MTPModel.from_backbone(original, 2, "sequential")
    with pytest.raises(ValueError, match="sequential heads have 1 layer"):
        MTPModel.from_backbone(original, 2, "sequential", num_head_layers=2)


# ---- starts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["copy", "linear-residual", "random"])
def test_how_heads_start(init: HeadInit) -> None:
    torch.manual_seed(0)
    original = AutoModelForCausalLM.from_config(tiny_config()).eval()
    with torch.no_grad():
        original.model.norm.weight.uniform_(0.5, 2.0)
    before = copy.deepcopy(original.state_dict())
    model = MTPModel.from_backbone(original, HEADS, "sequential", init).eval()
    assert all(torch.equal(before[k], v) for k, v in original.state_dict().items())
    final = original.model.norm.weight
    for head in model.heads:
        assert torch.equal(head.hnorm.weight, torch.ones(32))
        assert head.post_norm.weight is not final
        if init == "random":
            assert head.eh_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert torch.equal(head.post_norm.weight, torch.ones(32))
            assert not torch.equal(
                head.block.mlp.up_proj.weight, before["model.layers.2.mlp.up_proj.weight"]
            )
            continue
        assert torch.equal(head.eh_proj.weight, torch.cat([torch.zeros(32, 32), torch.eye(32)], 1))
        assert torch.equal(head.post_norm.weight, final)
        assert torch.equal(
            head.block.mlp.up_proj.weight, before["model.layers.2.mlp.up_proj.weight"]
        )
        assert bool(head.block.self_attn.o_proj.weight.any()) == (init == "copy")
    if init == "linear-residual":  # the state before, normed
        hidden = original.model(ids()).last_hidden_state
        for k, head in enumerate(model.heads, start=1):
            hidden = head.post_norm(head.hnorm(hidden))
            torch.testing.assert_close(model.head_logits(ids())[:, :, k], original.lm_head(hidden))
    # The token is learned to be read from the first step on.
    model(ids(), labels=horizon_labels(ids(), HEADS)).ce.sum().backward()
    assert all(head.eh_proj.weight.grad[:, :32].any() for head in model.heads)


# ---- the forward and checkpoints ----------------------------------------------------------------


@pytest.mark.parametrize("part", [None, "heads", "all"])
def test_both_losses_and_recomputation_have_the_same_gradients(part: Any) -> None:
    labels = horizon_labels(ids(), HEADS)
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2))
    plain = tiny().train()
    (plain(ids(), labels=labels).ce * weights).sum().backward()
    expected = [p.grad for p in plain.parameters()]
    model, runs = tiny().train(), []
    if part is not None:
        model.checkpoint_activations(part)
    model.heads[1].block.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    for out in (
        model(ids(), labels=labels, weigh=lambda *_: weights).weighted_ce,
        (model(ids(), labels=labels).ce * weights).sum(),
    ):
        model.zero_grad()
        out.backward()
        for a, b in zip((p.grad for p in model.parameters()), expected, strict=True):
            torch.testing.assert_close(a, b)
    assert len(runs) == (2 if part is None else 4)


def test_predictions_and_values(tmp_path: Path) -> None:
    model = tiny(value_head=True).eval()
    out = model(ids(), labels=horizon_labels(ids(), HEADS), with_predictions=True)
    assert torch.equal(out.predictions, model.head_logits(ids()).argmax(-1))
    final = model.backbone.model(ids()).last_hidden_state
    assert torch.equal(out.value, model.value_head(final))
    assert torch.equal(model(ids()).value, out.value)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "mtp_config.json").read_text())["head_type"] == "sequential"
    again = MTPModel.from_pretrained(tmp_path).eval()
    assert again.head_type == "sequential"
    assert torch.equal(again(ids()).value, out.value)


def test_trained_heads_learn(tmp_path: Path) -> None:
    data = tiny_data(4)
    order = np.tile(np.arange(4), 15)
    trainer, logs = trainer_for(tmp_path, Baseline(Baseline.Config()), tiny(), data, order, micro=4)
    trainer.train()
    for k in range(HEADS):
        assert logs[14][f"train/ce/head_{k}"] < 0.6 * logs[0][f"train/ce/head_{k}"]


def test_flops_count_projections_and_blocks() -> None:
    one, two = (training_flops(tiny(n), tokens=10, mean_length=16) for n in (1, 2))
    attention, mlp = 2 * 32 * 32 + 2 * 32 * 16, 3 * 32 * 48
    projection, norms, unembedding = 2 * 32 * 32, 5 * 32, 32 * VOCAB
    weights = attention + mlp + projection + norms + unembedding
    assert two - one == 10 * (6 * weights + 12 * 32 * 16)
