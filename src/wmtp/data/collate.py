"""From samples to a padded batch: targets of every head and signals by token."""

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

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> tuple[int, Encoded]:
        sample = int(self.order[place])
        return sample, self.data.items[sample]


@dataclass(frozen=True)
class Collate:
    """Pads samples on the right and shifts their targets, for H = `num_heads`.

    Returns `input_ids, attention_mask [B,S]`, `labels [B,S,H]`, `completion [B,S]` (tokens that are
    learned), `sample_ids [B]`, and where the data has them `reward [B]` and `ref_ce [B,S]`.
    """

    num_heads: int
    pad_token_id: int
    multiple_of: int = 8

    def __call__(self, samples: list[tuple[int, Encoded]]) -> dict[str, Any]:
        """Return the batch of these (sample, encoded) pairs."""
        longest = max(len(item) for _, item in samples)
        length = -(-longest // self.multiple_of) * self.multiple_of
        items = [item for _, item in samples]
        input_ids = _padded([i.input_ids for i in items], length, self.pad_token_id, torch.long)
        completion = _padded([i.completion for i in items], length, False, torch.bool)
        ones = [np.ones(len(i), dtype=np.int64) for i in items]
        batch = {
            "input_ids": input_ids,
            "attention_mask": _padded(ones, length, 0, torch.long),
            "labels": horizon_labels(
                input_ids.masked_fill(~completion, IGNORE_INDEX), self.num_heads
            ),
            "completion": completion,
            "sample_ids": torch.tensor([sample for sample, _ in samples]),
        }
        rewards = [i.example.reward for i in items]
        if None not in rewards:
            batch["reward"] = torch.tensor(rewards, dtype=torch.float32)
        signals = [i.ref_ce for i in items if i.ref_ce is not None]
        if len(signals) == len(items):
            batch["ref_ce"] = _padded(signals, length, 0.0, torch.float32)
        return batch


def _padded(rows: list[np.ndarray], length: int, fill: float, dtype: torch.dtype) -> Tensor:
    out = torch.full((len(rows), length), fill, dtype=dtype)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = torch.from_numpy(np.asarray(values))
    return out
