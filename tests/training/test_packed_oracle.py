"""Packed rows against plain Python, one token at a time, on documents drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import VOCAB, tiny_config
from wmtp.data.collate import Collate, PackedCollate
from wmtp.data.encode import Encoded, EncodedSet
from wmtp.data.example import Example
from wmtp.data.packing import PackedSamples, Packing
from wmtp.modeling.isolation import require_isolation
from wmtp.modeling.mtp import MTPModel
from wmtp.training.documents import Documents

Document = tuple[int, int]  # tokens of the prompt, and of the rest


def encoded(documents: list[Document], seed: int = 0) -> EncodedSet:
    """Return documents of these lengths; tokens drawn at random, signals that name their token."""
    rng = np.random.default_rng(seed)
    items = []
    for number, (prompt, rest) in enumerate(documents):
        length = prompt + rest
        items.append(
            Encoded(
                example=Example(f"t/{number}", "p", "c", reward=float(number % 2)),
                input_ids=rng.integers(3, VOCAB, length).astype(np.int32),
                completion=np.arange(length) >= prompt,
                fault=np.zeros(length, dtype=bool),
                num_bytes=length,
                ref_ce=(1000 * number + np.arange(length)).astype(np.float32),
            )
        )
    return EncodedSet(items)


DOCUMENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 7)), min_size=1, max_size=12)


@given(DOCUMENTS, st.integers(1, 5), st.integers(12, 30), st.integers(1, 9), st.integers(0, 3))
@settings(max_examples=60)
def test_every_token_of_a_packed_step_is_that_of_its_document(
    documents: list[Document], num_heads: int, capacity: int, multiple_of: int, more_rows: int
) -> None:
    data = encoded(documents)
    packing = Packing(data, np.arange(len(documents)), len(documents), capacity)
    num_rows = min(packing.rows_needed() + more_rows, len(documents))
    rows = PackedSamples(packing, num_rows)
    assert len(rows) == num_rows
    layout = [rows.samples(place) for place in range(num_rows)]
    assert sorted(sample for row in layout for sample in row) == list(range(len(documents)))
    batch = PackedCollate(num_heads, 0, multiple_of)([rows[place] for place in range(num_rows)])
    length = batch["input_ids"].shape[1]
    assert length % multiple_of == 0
    assert (
        length - multiple_of
        < max(sum(len(data.items[s]) for s in row) for row in layout)
        <= capacity
    )
    seen = -1
    for r, row in enumerate(layout):
        column = 0
        for sample in row:
            seen += 1
            item = data.items[sample]
            n = len(item)
            assert batch["sample_ids"][seen] == sample
            assert batch["reward"][seen] == sample % 2
            for t in range(n):
                assert batch["input_ids"][r, column + t] == item.input_ids[t]
                assert batch["position_ids"][r, column + t] == t
                assert batch["attention_mask"][r, column + t] == 1
                assert batch["places"][seen, t] == r * length + column + t
                assert batch["completion"][seen, t] == item.completion[t]
                assert batch["ref_ce"][seen, t] == 1000 * sample + t
                for k in range(num_heads):
                    u = t + k + 1
                    want = item.input_ids[u] if u < n and item.completion[u] else -100
                    assert batch["labels"][r, column + t, k] == want
            assert (batch["places"][seen, n:] == -1).all()
            assert not batch["completion"][seen, n:].any()
            column += n
        assert (batch["labels"][r, column:] == -100).all()
        assert not batch["attention_mask"][r, column:].any()
        assert batch["position_ids"][r, column:].tolist() == list(range(length - column))
    assert seen == len(documents) - 1


MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", {}, {}),
    "two layers to a head": ("llama", {"num_hidden_layers": 4}, {"num_head_layers": 2}),
    "sequential": ("llama", {}, {"head_type": "sequential"}),
    "gpt2": (
        "gpt2",
        {"n_positions": 64, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
        {},
    ),
    "sliding": ("mistral", {"sliding_window": 4}, {}),
    "gemma3": (
        "gemma3_text",
        {
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        {},
    ),
    "sequential, sliding": ("mistral", {"sliding_window": 4}, {"head_type": "sequential"}),
    "qwen3": ("qwen3", {}, {}),
}


def losses_of(model: MTPModel, batch: dict[str, Any], documents: Documents) -> torch.Tensor:
    mask = batch["attention_mask"] if documents.places is None else None
    out = model(
        batch["input_ids"],
        attention_mask=mask,
        position_ids=batch.get("position_ids"),
        labels=batch["labels"],
    )
    return documents.from_rows(out.ce)


@pytest.mark.parametrize(
    ("attention", "recompute"),
    [("eager", None), ("sdpa", None), ("sdpa", "all"), ("eager", "heads")],
)
@pytest.mark.parametrize("name", list(MODELS))
def test_losses_and_gradients_are_those_of_each_document_alone(
    name: str, attention: str, recompute: str | None
) -> None:
    family, sizes, heads = MODELS[name]
    torch.manual_seed(0)
    config = tiny_config(family, **sizes, attn_implementation=attention)
    model = MTPModel.from_config(config, 3, **heads).double().train()
    if recompute is not None:
        model.checkpoint_activations(recompute)
    # One document that ends a row exactly, one of a single token, some longer than the window.
    data = encoded([(0, 1), (2, 9), (1, 1), (3, 4), (0, 7), (2, 2), (1, 12)])
    rows = [[6, 0, 2], [1, 4], [3, 5]]
    packed = PackedCollate(3, 0, 1)([[(s, data.items[s]) for s in row] for row in rows])
    together = losses_of(model, packed, Documents.of(packed))
    (together**2).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    # Eager attention has its softmax in float32, and Gemma its norms.
    tolerance = 1e-10 if attention == "sdpa" and family != "gemma3_text" else 1e-5
    for number, sample in enumerate(sample for row in rows for sample in row):
        item = data.items[sample]
        alone = Collate(3, 0, 1)([(sample, item)])
        ce = losses_of(model, alone, Documents.of(alone))[0]
        (ce**2).sum().backward()
        torch.testing.assert_close(
            together[number, : len(item)], ce, rtol=tolerance, atol=tolerance
        )
    for n, p in model.named_parameters():
        if n in gradients:
            torch.testing.assert_close(p.grad, gradients[n], rtol=tolerance, atol=tolerance)
    if recompute is None:
        require_isolation(model)
