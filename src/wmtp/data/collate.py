"""From samples to a batch, padded or packed: targets of every head and signals by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wmtp.data.encode import Encoded, EncodedSet
from wmtp.losses import IGNORE_INDEX, horizon_labels


class OrderedSamples(Dataset[tuple[int, Encoded]]):
    """Samples in training order: place i holds sample `order[i]`, given as (sample, encoded)."""

    def __init__(self, data: EncodedSet, order: np.ndarray) -> None:
        self.data = data
        self.order = order

    @property
    def num_samples(self) -> int:
        """Number of samples over all steps."""
        return len(self.order)

    def samples(self, place: int) -> list[int]:
        """Return the sample at `place`, alone."""
        return [int(self.order[place])]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> tuple[int, Encoded]:
        sample = int(self.order[place])
        return sample, self.data.items[sample]


@dataclass(frozen=True)
class Collate:
    """Pads samples on the right and shifts their targets, for H = `num_heads`.

    Returns `input_ids, attention_mask [B,S]`, `labels [B,S,H]`, `completion [B,S]` (tokens that are
    learned), `fault [B,S]` (tokens with a known fault), `sample_ids [B]`, `problem [B]`
    (`Example.problem`), and where the data has them `reward [B]`, `ref_ce [B,S]` and `value [B,S]`. S is a
    multiple of `multiple_of`.
    """

    num_heads: int
    pad_token_id: int
    multiple_of: int = 8

    def __call__(self, samples: list[tuple[int, Encoded]]) -> dict[str, Any]:
        """Return the batch of these (sample, encoded) pairs."""
        items = [item for _, item in samples]
        length = _rounded_up(max(map(len, items)), self.multiple_of)
        input_ids = _padded([i.input_ids for i in items], length, self.pad_token_id, torch.long)
        ones = [np.ones(len(i), dtype=np.int64) for i in items]
        signals = _signals(samples, length)
        learned = input_ids.masked_fill(~signals["completion"], IGNORE_INDEX)
        return {
            "input_ids": input_ids,
            "attention_mask": _padded(ones, length, 0, torch.long),
            "labels": horizon_labels(learned, self.num_heads),
            **signals,
        }


@dataclass(frozen=True)
class PackedCollate:
    """Puts the documents of each row one after the other, for H = `num_heads`.

    Legend: R rows, L their length, D documents in all rows, S the longest of them. Returns `input_ids,
    attention_mask [R,L]` (1 for tokens that are no padding), `position_ids [R,L]`, which begin anew with
    every document and with the padding, and `labels [R,L,H]`, none across documents. What is known of a
    document is by document: `completion` and `fault [D,S]`, `sample_ids [D]`, `problem [D]`,
    `reward [D]`, `ref_ce` and `value [D,S]` as `Collate` gives them, and `places [D,S]`, where each of its
    tokens is in the rows one after the other, -1 past its end.
    """

    num_heads: int
    pad_token_id: int
    multiple_of: int = 8

    def __call__(self, rows: list[list[tuple[int, Encoded]]]) -> dict[str, Any]:
        """Return the batch of these rows of (sample, encoded) pairs."""
        samples = [pair for row in rows for pair in row]
        lengths = [[len(item) for _, item in row] for row in rows]
        length = _rounded_up(max(map(sum, lengths)), self.multiple_of)
        places, positions, documents = [], [], []
        for number, row in enumerate(lengths):
            ends = np.cumsum(row)
            begin = number * length
            places += [np.arange(b - n, b) + begin for b, n in zip(ends, row, strict=True)]
            blocks = [*row, length - int(ends[-1])]  # the padding is a block of its own
            positions.append(np.concatenate([np.arange(n) for n in blocks]))
            documents.append(np.repeat(np.arange(len(blocks)), blocks))
        joined = [np.concatenate([item.input_ids for _, item in row]) for row in rows]
        learned = [np.concatenate([item.completion for _, item in row]) for row in rows]
        ones = [np.ones(len(row), dtype=np.int64) for row in joined]
        input_ids = _padded(joined, length, self.pad_token_id, torch.long)
        unlearned = ~_padded(learned, length, False, torch.bool)
        longest = max(len(item) for _, item in samples)
        return {
            "input_ids": input_ids,
            "attention_mask": _padded(ones, length, 0, torch.long),
            "position_ids": torch.from_numpy(np.stack(positions)),
            "labels": horizon_labels(
                input_ids.masked_fill(unlearned, IGNORE_INDEX),
                self.num_heads,
                torch.from_numpy(np.stack(documents)),
            ),
            "places": _padded(places, longest, -1, torch.long),
            **_signals(samples, longest),
        }


def _signals(samples: list[tuple[int, Encoded]], length: int) -> dict[str, Tensor]:
    """Return what algorithms look at, one sample per row, padded to `length`."""
    items = [item for _, item in samples]
    found = {
        "completion": _padded([i.completion for i in items], length, False, torch.bool),
        "fault": _padded([i.fault for i in items], length, False, torch.bool),
        "sample_ids": torch.tensor([sample for sample, _ in samples]),
        "problem": torch.tensor([item.example.problem for item in items]),
    }
    rewards = [i.example.reward for i in items]
    if None not in rewards:
        found["reward"] = torch.tensor(rewards, dtype=torch.float32)
    for name in ("ref_ce", "value"):
        signals = [getattr(item, name) for item in items]
        if all(signal is not None for signal in signals):
            found[name] = _padded(signals, length, 0.0, torch.float32)
    return found


def _rounded_up(length: int, multiple_of: int) -> int:
    return -(-length // multiple_of) * multiple_of


def _padded(rows: list[np.ndarray], length: int, fill: float, dtype: torch.dtype) -> Tensor:
    out = torch.full((len(rows), length), fill, dtype=dtype)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = torch.from_numpy(np.asarray(values))
    return out
