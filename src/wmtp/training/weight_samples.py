"""The weights that a scheme gives to tokens outside of training: for people to look at, and for audits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wmtp.algorithms.base import Algorithm, Batch
from wmtp.data.encode import EncodedSet
from wmtp.losses import IGNORE_INDEX
from wmtp.modeling.mtp import MTPModel
from wmtp.weighting import align_to_tokens


@torch.no_grad()
def weigh_samples(
    model: MTPModel,
    algorithm: Algorithm[Any],
    data: EncodedSet,
    chosen: Sequence[int],
    collate: Callable[[list[Any]], dict[str, Any]],
) -> tuple[Batch, Float[Tensor, "B S H"]]:
    """Return the chosen samples as one batch, and the weights that the scheme gives them.

    The weights are those at the end of training, with what the algorithm's `state` holds. The model
    is left in evaluation mode.
    """
    model.eval()
    inputs = collate([(sample, data.items[sample]) for sample in chosen])
    moved = {name: value.to(model.device) for name, value in inputs.items()}
    out = model(
        input_ids=moved["input_ids"],
        attention_mask=moved["attention_mask"],
        labels=moved["labels"],
        with_entropy="entropy" in algorithm.needs,
    )
    batch = Batch(
        ce=out.ce,
        valid=moved["labels"] != IGNORE_INDEX,
        completion=moved["completion"],
        sample_ids=list(chosen),
        step=1,
        total_steps=1,
        value=moved.get("value") if out.value is None else out.value,
        value_anchor=out.value_anchor,
        problem=moved["problem"],
        reward=moved.get("reward"),
        ref_ce=moved.get("ref_ce"),
        fault=moved["fault"],
        token_ids=moved["input_ids"],
        vocab_size=model.vocab_size,
        entropy=out.entropy,
    )
    return batch, algorithm.weigh(batch).weights


def weight_samples(
    model: MTPModel,
    algorithm: Algorithm[Any],
    data: EncodedSet,
    chosen: list[int],
    collate: Callable[[list[Any]], dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    """Return, for each chosen sample, its completion tokens with the weight of each head's target.

    `weights[j][k]` belongs to token j as predicted by head k, None where head k does not predict it;
    `fault[j]` says whether a mutation changed it.
    """
    if not chosen:
        return []
    batch, weights = weigh_samples(model, algorithm, data, chosen, collate)
    by_token = align_to_tokens(weights, batch.valid).cpu()
    return [
        weight_record(data, sample, row, tokenizer)
        for sample, row in zip(chosen, by_token, strict=True)
    ]


def weight_record(
    data: EncodedSet, sample: int, weights: Float[Tensor, "S H"], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Return one sample as `weights.json` holds it; `weights` as `align_to_tokens` gives them."""
    item = data.items[sample]
    places = item.completion.nonzero()[0].tolist()
    return {
        "task_id": item.example.task_id,
        "reward": item.example.reward,
        "prompt": item.example.prompt,
        "tokens": [tokenizer.decode([int(item.input_ids[j])]) for j in places],
        "weights": [
            [None if math.isnan(weight) else round(weight, 4) for weight in weights[j].tolist()]
            for j in places
        ],
        "fault": [bool(item.fault[j]) for j in places],
    }
