"""Rows of several documents: which, how full, and what the collated batch says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import tiny_data
from wmtp.config.recipe import OptimizationSection
from wmtp.data.collate import Collate, PackedCollate
from wmtp.data.encode import EncodedSet, encode_examples
from wmtp.data.order import training_order
from wmtp.data.packing import PackedSamples, Packing, balanced_rows, best_fit_decreasing
from wmtp.data.sources.base import Source
from wmtp.data.sources.mbpp import Mbpp
from wmtp.data.sources.minicode.source import Minicode
from wmtp.data.tokenizer import train_tokenizer

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=60)


def by_loops(lengths: list[int], capacity: int) -> list[int]:
    """Return the sums of the rows of best-fit decreasing, found by looking at every row."""
    sums: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, used in enumerate(sums) if used + length <= capacity]
        if fitting:
            sums[max(fitting, key=lambda row: sums[row])] += length
        else:
            sums.append(length)
    return sums


@given(LENGTHS, st.integers(30, 80))
@settings(max_examples=100, deadline=None)
def test_best_fit_decreasing_against_loops(lengths: list[int], capacity: int) -> None:
    rows = best_fit_decreasing(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in row) for row in rows]
    assert sorted(sums) == sorted(by_loops(lengths, capacity))
    assert max(sums) <= capacity


def test_best_fit_by_hand() -> None:
    assert best_fit_decreasing([3, 7, 5, 2, 3], 10) == [[1, 0], [2, 4, 3]]
    with pytest.raises(ValueError, match="11 tokens is longer than a row of 10"):
        best_fit_decreasing([11], 10)


@given(LENGTHS, st.integers(30, 80), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_balanced_rows_are_as_many_as_asked(lengths: list[int], capacity: int, more: int) -> None:
    fewest = best_fit_decreasing(lengths, capacity)
    number = min(len(fewest) + more, len(lengths))
    rows = balanced_rows(lengths, capacity, number)
    assert len(rows) == number
    assert all(rows)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in row) for row in rows]
    assert sums == sorted(sums, reverse=True)
    assert sums[0] <= max(sum(lengths[i] for i in row) for row in fewest)


def test_balanced_rows_by_hand() -> None:
    assert balanced_rows([4, 4, 2, 2], 12, 2) == [[0, 3], [1, 2]]
    assert balanced_rows([9, 1, 1, 1], 12, 3) == [[0], [1, 2], [3]]
    # Bisection alone leaves 19 and 17 here.
    assert balanced_rows([6, 4, 7, 9, 7, 3], 36, 2) == [[3, 5, 0], [4, 1, 2]]
    with pytest.raises(ValueError, match="4 documents fill 1 rows of 12, not 5"):
        balanced_rows([4, 4, 2, 2], 12, 5)


def test_every_step_has_its_samples_whatever_the_rows() -> None:
    data = tiny_data(16)
    order = np.random.default_rng(3).permutation(np.repeat(np.arange(16), 2))
    packing = Packing(data, order, global_batch=8, capacity=40)
    needed = packing.rows_needed()
    for rows in (needed, needed + 1, 8):
        samples = PackedSamples(packing, rows)
        assert len(samples) == 4 * rows
        assert samples.num_samples == 32
        for step in range(4):
            places = range(step * rows, (step + 1) * rows)
            found = [sample for place in places for sample in samples.samples(place)]
            assert sorted(found) == sorted(order[step * 8 : step * 8 + 8].tolist())
        again = PackedSamples(packing, rows)
        backwards = [again[place] for place in reversed(range(len(again)))][::-1]
        assert [[s for s, _ in row] for row in backwards] == [
            samples.samples(place) for place in range(len(samples))
        ]
    with pytest.raises(ValueError, match="rows of 40, not 1"):
        PackedSamples(packing, 1).samples(0)


def test_packed_collation_is_the_padded_one_document_by_document() -> None:
    data = tiny_data(5)
    rows = [[3, 0], [1], [4, 2]]
    packed = PackedCollate(3, pad_token_id=0)([[(i, data.items[i]) for i in row] for row in rows])
    flat = [i for row in rows for i in row]
    padded = Collate(3, 0)([(i, data.items[i]) for i in flat])
    length = packed["input_ids"].shape[1]
    assert length % 8 == 0
    assert packed["sample_ids"].tolist() == flat
    assert torch.equal(packed["reward"], padded["reward"])
    for d, sample in enumerate(flat):
        n = len(data.items[sample])
        places = packed["places"][d]
        assert (places[n:] == -1).all()
        row = next(r for r, members in enumerate(rows) if sample in members)
        assert set((places[:n] // length).tolist()) == {row}
        at = (places[:n] // length, places[:n] % length)
        for name in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(packed[name][at], padded[name][d, :n]), name
        assert packed["position_ids"][at].tolist() == list(range(n))
        for name in ("completion", "ref_ce"):
            assert torch.equal(packed[name][d, :n], padded[name][d, :n])
            assert not packed[name][d, n:].any()
    used = sum(len(item) for item in data.items)
    assert packed["attention_mask"].sum() == used
    assert (packed["labels"] != -100).sum() == (padded["labels"] != -100).sum()
    empty = packed["attention_mask"] == 0
    for row, gap in zip(packed["position_ids"], empty, strict=True):
        assert row[gap].tolist() == list(range(int(gap.sum())))


def efficiency(data: EncodedSet, max_length: int, batch: int) -> float:
    """Return the share of tokens that are no padding, over 3 epochs in forwards of a whole step."""
    budget = OptimizationSection(learning_rate=1.0, global_batch=batch, epochs=3)
    packing = Packing(data, training_order(data, budget, None, seed=0), batch, max_length)
    rows = packing.rows_needed()
    samples, collate = PackedSamples(packing, rows), PackedCollate(4, 0)
    filled = total = 0
    for start in range(0, len(samples), rows):
        mask = collate([samples[place] for place in range(start, start + rows)])["attention_mask"]
        filled, total = filled + int(mask.sum()), total + mask.numel()
    return filled / total


@pytest.mark.parametrize("name", ["mbpp", "minicode"])
def test_packed_rows_are_full(name: str, request: pytest.FixtureRequest) -> None:
    source: Source = Minicode(Minicode.Config(num_problems=300))
    if name == "mbpp":
        path: Path = request.getfixturevalue("shared_data") / "mbpp" / "mbpp.jsonl"
        source = Mbpp(Mbpp.Config(path=str(path)))
    examples = list(source.examples("train"))[:500]
    tokenizer = train_tokenizer([e.prompt + e.completion for e in examples], 1000)
    for max_length in (1024, 2048):
        data = encode_examples(examples, tokenizer, max_length, name)
        for batch in (16, 64):
            assert efficiency(data, max_length, batch) >= 0.98
    # Rows of few documents cannot be as alike, and are rounded up to a multiple of 8.
    data = encode_examples(examples, tokenizer, 512, name)
    assert efficiency(data, 512, 64) >= 0.97
