"""The weights that a scheme gives to the tokens of a few samples, for people to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from wmtp.algorithms.base import Algorithm, Batch
from wmtp.data.encode import EncodedSet
from wmtp.losses import IGNORE_INDEX
from wmtp.modeling.mtp import MTPModel


@torch.no_grad()
def weight_samples(
    model: MTPModel,
    algorithm: Algorithm[Any],
    data: EncodedSet,
    chosen: list[int],
    collate: Callable[[list[Any]], dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    """Return, for each chosen sample, its completion tokens with the weight of each head's target.

    The weights are those at the end of training. `weights[j][k]` belongs to token j as predicted by
    head k, None where head k does not predict it; `fault[j]` says whether a mutation changed it.
    """
    if not chosen:
        return []
    model.eval()
    inputs = collate([(sample, data.items[sample]) for sample in chosen])
    moved = {name: value.to(model.device) for name, value in inputs.items()}
    out = model(
        input_ids=moved["input_ids"],
        attention_mask=moved["attention_mask"],
        labels=moved["labels"],
        with_entropy="entropy" in algorithm.needs,
    )
    valid = moved["labels"] != IGNORE_INDEX
    batch = Batch(
        ce=None if algorithm.uses_ce == "none" else out.ce,
        valid=valid,
        completion=moved["completion"],
        sample_ids=chosen,
        step=1,
        total_steps=1,
        value=moved.get("value") if out.value is None else out.value,
        problem=moved["problem"],
        reward=moved.get("reward"),
        ref_ce=moved.get("ref_ce"),
        fault=moved["fault"],
        token_ids=moved["input_ids"],
        vocab_size=model.vocab_size,
        entropy=out.entropy,
    )
    weights = algorithm.weigh(batch).weights.cpu()
    records = []
    for row, sample in enumerate(chosen):
        item = data.items[sample]
        places = item.completion.nonzero()[0].tolist()
        records.append(
            {
                "task_id": item.example.task_id,
                "reward": item.example.reward,
                "prompt": item.example.prompt,
                "tokens": [tokenizer.decode([int(item.input_ids[j])]) for j in places],
                "weights": [
                    [_weight(weights[row], valid[row].cpu(), j, k) for k in range(valid.shape[2])]
                    for j in places
                ],
                "fault": [bool(item.fault[j]) for j in places],
            }
        )
    return records


def _weight(weights: torch.Tensor, valid: torch.Tensor, token: int, head: int) -> float | None:
    """Return the weight of head `head` for the token, which it predicts from head + 1 earlier."""
    position = token - head - 1
    if position < 0 or not valid[position, head]:
        return None
    return round(float(weights[position, head]), 4)
