"""Several documents in a row give what each gives alone: losses, weights, gradients, steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import tiny_config, tiny_data, tiny_model, trainer_for
from tests.training.test_trainer import ORDER, algorithms
from wmtp.data.collate import Collate, PackedCollate
from wmtp.data.packing import Packing
from wmtp.errors import ConfigError
from wmtp.modeling.isolation import require_isolation
from wmtp.modeling.mtp import MTPModel
from wmtp.training.arguments import packed_batches
from wmtp.training.documents import Documents

ROWS = [[3, 0, 5], [1], [4, 2]]
FAMILIES = {
    "llama": {},
    "gpt2": {"n_positions": 64},
    "mistral": {"sliding_window": 4},
}


def model_of(family: str, attention: str = "eager", heads: str = "parallel") -> MTPModel:
    torch.manual_seed(0)
    config = tiny_config(family, **FAMILIES.get(family, {}), attn_implementation=attention)
    return MTPModel.from_config(config, 3, head_type=heads).double().eval()


def batches() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the same documents padded and packed."""
    items = tiny_data(6).items
    flat = [(i, items[i]) for row in ROWS for i in row]
    return Collate(3, 0)(flat), PackedCollate(3, 0)([[(i, items[i]) for i in r] for r in ROWS])


@pytest.mark.parametrize(
    ("family", "attention", "heads"),
    [
        *((name, attention, "parallel") for name in FAMILIES for attention in ("eager", "sdpa")),
        ("llama", "sdpa", "sequential"),
    ],
)
def test_every_head_has_the_loss_of_the_document_alone(
    family: str, attention: str, heads: str
) -> None:
    model = model_of(family, attention, heads)
    assert model.config._attn_implementation == attention
    padded, packed = batches()
    documents = Documents.of(packed)
    together = model(
        packed["input_ids"], position_ids=packed["position_ids"], labels=packed["labels"]
    ).ce
    found = documents.from_rows(together)
    # Eager attention has its softmax in float32.
    tolerance = {"eager": 1e-6, "sdpa": 1e-11}[attention]
    for ids, labels, mask, ce in zip(
        padded["input_ids"], padded["labels"], padded["attention_mask"], found, strict=True
    ):
        n = int(mask.sum())
        alone = model(ids[None, :n], labels=labels[None, :n]).ce[0]
        assert (ce[:n, 2] > 0).any()
        torch.testing.assert_close(ce[:n], alone, rtol=tolerance, atol=tolerance)
        assert not ce[n:].any()
    assert torch.equal(documents.to_rows(found, together.shape), together)
    require_isolation(model)


def step_of(folder: Path, name: str, inputs: dict[str, Any]) -> tuple[float, Any, torch.Tensor]:
    """Return loss, what the scheme answered, and a gradient, after the phases without weights."""
    algorithm = algorithms()[name]()
    torch.manual_seed(0)
    model = MTPModel.from_config(tiny_config(), 3)
    if algorithm.value_head is not None:
        kind, _, num_folds, anchored, _ = algorithm.value_head
        model.add_value_head(kind, num_folds == 1, num_folds)
        if anchored:
            model.anchor_value()
    model = model.double().eval()
    trainer, _ = trainer_for(folder, algorithm, model, tiny_data(6), np.arange(6), micro=6)
    trainer._num_completion = float(inputs["completion"].sum())
    trainer.state.max_steps, trainer.state.global_step = 10, 9
    known = []
    weigh = algorithm.weigh
    algorithm.weigh = lambda batch: known.append(weigh(batch)) or known[-1]  # type: ignore[method-assign]
    number = (inputs["labels"] != -100).sum()
    for _ in range(3 if algorithm.state else 1):  # running statistics are known the third time
        model.zero_grad()
        loss = trainer.compute_loss(model, inputs, num_items_in_batch=number)
        loss.backward()
        trainer.end_step(keep=True)
    return loss.item(), known[-1], model.backbone.get_input_embeddings().weight.grad


@pytest.mark.parametrize("name", list(algorithms()))
def test_every_scheme_weighs_packed_documents_alike(tmp_path: Path, name: str) -> None:
    padded, packed = (step_of(tmp_path, name, inputs) for inputs in batches())
    assert packed[0] == pytest.approx(padded[0], rel=1e-6)
    length = packed[1].weights.shape[1]
    assert not padded[1].weights[:, length:].any()
    torch.testing.assert_close(
        packed[1].weights, padded[1].weights[:, :length], rtol=1e-5, atol=1e-6
    )
    if name != "mtp-baseline":
        assert packed[1].weights[packed[1].weights > 0].std() > 0
    torch.testing.assert_close(packed[2], padded[2], rtol=1e-5, atol=1e-6)


def test_packed_training_takes_the_same_steps_and_resumes(tmp_path: Path) -> None:
    """Padded, packed with accumulation, and packed from a checkpoint on: same losses and tokens."""
    data = tiny_data()
    packing = Packing(data, ORDER, global_batch=8, capacity=60)
    assert packing.rows_needed() == 3
    packed = {"micro": 1, "accumulation": 3, "packing": packing}
    saving = {"save_strategy": "steps", "save_steps": 1, **packed}
    losses, tokens = [], set()
    for layout, saved in (
        ({"micro": 8}, None),
        (saving, None),
        (packed, str(tmp_path / "checkpoint-1")),
    ):
        algorithm = algorithms()["critic-wmtp"]()
        trainer, logs = trainer_for(
            tmp_path, algorithm, tiny_model(value_head=True), data, ORDER, **layout
        )
        trainer.train(resume_from_checkpoint=saved)
        losses.append([log["train/loss"] for log in logs])
        tokens.add(trainer.state.num_input_tokens_seen)
    assert len(losses[0]) == 2
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-5)
    assert losses[2] == losses[1][1:]
    assert tokens == {sum(len(item) for item in data.items)}


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("opt", {"word_embed_proj_dim": 32, "ffn_dim": 48}, "sees the one before it"),
        ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}, "sees the one before it"),
        ("bloom", {}, "it takes no position_ids"),
    ],
)
def test_models_that_see_neighbours_are_refused(
    family: str, settings: dict[str, Any], reason: str
) -> None:
    model = MTPModel.from_config(tiny_config(family, **settings), 2)
    with pytest.raises(ConfigError, match=rf"data.packing: {family} models .*{reason}"):
        require_isolation(model)


def test_positions_that_do_not_begin_anew_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learned positions taken from the place in the row give another loss, though nothing leaks."""
    model = model_of("gpt2")
    embed = model.backbone.transformer.wpe
    monkeypatch.setattr(embed, "forward", lambda ids: type(embed).forward(embed, (ids + 7) % 9))
    require_isolation(model)
    shifted = lambda ids: type(embed).forward(embed, torch.arange(ids.shape[1])[None])  # noqa: E731
    monkeypatch.setattr(embed, "forward", shifted)
    with pytest.raises(ConfigError, match="has not the loss that it has alone"):
        require_isolation(model)


@pytest.mark.parametrize(
    ("rows", "micro", "processes", "expected"),
    [(5, None, 1, (5, 1)), (5, None, 2, (3, 1)), (5, 2, 1, (2, 3)), (3, 8, 2, (2, 1))],
)
def test_rows_of_a_step(rows: int, micro: int | None, processes: int, expected) -> None:
    assert packed_batches(rows, 16, micro, processes) == expected


def test_more_rows_than_documents_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the 5 documents of a step .* 6 packed rows"):
        packed_batches(5, 5, 2, 1)
