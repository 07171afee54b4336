"""The cache of a reference model's cross entropy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from tests.tiny import tiny_config
from wmtp.data import reference, reference_cache
from wmtp.data.encode import EncodedSet, encode_examples
from wmtp.data.example import Example
from wmtp.data.reference import with_reference_ce
from wmtp.data.tokenizer import train_tokenizer
from wmtp.errors import CheckpointError


@pytest.fixture
def setting(tmp_path: Path):
    """A tokenizer, an encoded set and the folder of a reference model."""
    texts = [f"def f{i}(xs):\n    return xs[{i}:]\n" for i in range(7)]
    tokenizer = train_tokenizer(texts, 300)
    data = encode_examples(
        [Example(str(i), text[:11], text[11:] * (i + 1)) for i, text in enumerate(texts)],
        tokenizer,
        60,
        "here",
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(vocab_size=len(tokenizer)))
    folder = tmp_path / "reference"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer, data, folder, model.eval()


def test_values_are_those_of_the_model(setting, tmp_path: Path) -> None:
    tokenizer, data, folder, model = setting
    found = with_reference_ce(data, folder, tokenizer, tmp_path / "cache", batch_size=3)
    for before, item in zip(data.items, found.items, strict=True):
        assert item.input_ids is before.input_ids
        ids = torch.from_numpy(item.input_ids).long()
        with torch.no_grad():
            want = F.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none")
        assert item.ref_ce.dtype == np.float16
        np.testing.assert_allclose(item.ref_ce[1:], want.numpy(), rtol=6e-4, atol=1e-5)
        assert item.ref_ce[0] == 0


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gemma2", {"final_logit_softcapping": 1.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("granite", {"logits_scaling": 3.0}),
        ("gpt2", {}),
        ("opt", {"word_embed_proj_dim": 16}),
        ("mamba", {"state_size": 8}),
    ],
)
def test_values_are_right_for_every_family(
    family: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **settings)).eval()
    rows = [np.arange(3, 3 + length, dtype=np.int32) for length in (9, 2, 6)]
    with torch.no_grad():
        found = reference._token_ce(model, rows)
        # So little room that rows go one by one.
        monkeypatch.setattr(reference, "_LOGITS_ELEMENTS", 1)
        one_by_one = reference._token_ce(model, rows)
        for row, ce, again in zip(rows, found, one_by_one, strict=True):
            ids = torch.from_numpy(row).long()
            want = F.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none")
            np.testing.assert_allclose(ce[1:], want.numpy(), rtol=2e-4, atol=1e-5)
            np.testing.assert_allclose(ce, again, rtol=2e-4, atol=1e-5)
            assert ce[0] == 0


def test_the_cache_is_read_and_its_key_is_exact(
    setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, data, folder, model = setting
    cache = tmp_path / "cache"
    first = with_reference_ce(data, folder, tokenizer, cache)
    calls = []
    compute = reference._Computation.__call__
    monkeypatch.setattr(
        reference._Computation, "__call__", lambda *a: calls.append(1) or compute(*a)
    )
    again = with_reference_ce(data, folder, tokenizer, cache)
    assert not calls
    for a, b in zip(first.items, again.items, strict=True):
        assert np.array_equal(a.ref_ce, b.ref_ce)
    with_reference_ce(EncodedSet(data.items[:-1]), folder, tokenizer, cache)
    assert len(calls) == 1
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(folder)
    with_reference_ce(data, folder, tokenizer, cache)
    assert len(calls) == 2
    assert len(list(cache.glob("ref_ce-*.safetensors"))) == 3
    monkeypatch.setattr(reference.transformers, "__version__", "0")
    with_reference_ce(data, folder, tokenizer, cache)
    assert len(calls) == 3


def test_parts_are_the_whole(setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, data, folder, _ = setting
    whole = with_reference_ce(data, folder, tokenizer, tmp_path / "a")
    monkeypatch.setattr(reference_cache, "PART_VALUES", 40)
    seen: list[tuple[int, int]] = []
    in_parts = with_reference_ce(
        data, folder, tokenizer, tmp_path / "b", progress=lambda *at: seen.append(at)
    )
    assert len(seen) > 2
    assert seen[-1] == (7, 7)
    for a, b in zip(whole.items, in_parts.items, strict=True):
        np.testing.assert_allclose(a.ref_ce, b.ref_ce, rtol=2e-3)


def test_a_reference_that_cannot_read_the_data_is_refused(setting, tmp_path: Path) -> None:
    tokenizer, data, folder, model = setting
    model.config.max_position_embeddings = 30
    model.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="has 30 positions, the data need 57"):
        with_reference_ce(data, folder, tokenizer, tmp_path / "cache")


def test_losses_that_are_no_numbers_are_refused(setting, tmp_path: Path) -> None:
    tokenizer, data, folder, model = setting
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="a loss that is no number"):
        with_reference_ce(data, folder, tokenizer, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_float16_costs_at_most_four_thousandths_of_a_nat() -> None:
    ce = np.linspace(0, 16, 100_001)
    assert np.abs(ce.astype(np.float16) - ce).max() <= 0.004
    assert np.abs(ce.astype(np.float16) - ce)[ce < 4].max() <= 0.001


def test_another_tokenizer_is_refused(setting, tmp_path: Path) -> None:
    _, data, folder, _ = setting
    other = train_tokenizer(["words and more words"] * 9, 280)
    with pytest.raises(CheckpointError, match="Train the reference with the policy's tokenizer"):
        with_reference_ce(data, folder, other, tmp_path / "cache")
