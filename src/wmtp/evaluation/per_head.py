"""How well each head predicts, by the place of a token in its completion, its class and its difficulty."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wmtp.data.collate import Collate
from wmtp.data.encode import Boundary, EncodedSet, completion_spans
from wmtp.data.token_classes import TOKEN_CLASSES, token_classes
from wmtp.evaluation.value_metrics import calibration_error
from wmtp.losses import IGNORE_INDEX
from wmtp.modeling.layout import logits_of
from wmtp.modeling.mtp import MTPModel

# Places in the completion, from 0; a bin ends before the next begins.
POSITIONS = (0, 16, 32, 64, 128, 256, 512)
TOP = 5


@dataclass(frozen=True)
class Targets:
    """All targets of a set, one row each, in the order of examples.

    head, position (place of the target's token in its completion), token_class (place in
    `TOKEN_CLASSES`), rank (tokens that the head finds likelier), all [N] int; ce (nats), confidence
    (probability of the head's likeliest token), difficulty (cross entropy of the target's token under
    the reference, else under head 0), all [N] float.
    """

    head: np.ndarray
    position: np.ndarray
    token_class: np.ndarray
    rank: np.ndarray
    ce: np.ndarray
    confidence: np.ndarray
    difficulty: np.ndarray


@torch.no_grad()
def measure_targets(
    model: MTPModel,
    data: EncodedSet,
    collate: Collate,
    classes: Sequence[np.ndarray],
    batch_size: int = 16,
) -> Targets:
    """Return what `model` says of every target of `data`; the model is left in evaluation mode.

    classes: of the completion tokens of each example. No more than a few thousand rows of logits
    exist at a time.
    """
    model.eval()
    columns: dict[str, list[np.ndarray]] = {name: [] for name in Targets.__dataclass_fields__}
    for start in range(0, len(data), batch_size):
        rows = list(enumerate(data.items))[start : start + batch_size]
        batch = collate(rows)
        labels = batch["labels"]
        found = target_ranks(
            model,
            batch["input_ids"].to(model.device),
            batch["attention_mask"].to(model.device),
            labels.to(model.device),
        )
        ce, rank, confidence = (part.cpu().numpy() for part in found)
        of_token = _token_signals(rows, labels.shape[1], classes, ce, batch.get("ref_ce"))
        example, place, head = np.nonzero((labels != IGNORE_INDEX).numpy())
        token = place + head + 1
        columns["head"].append(head)
        columns["ce"].append(ce[example, place, head])
        columns["rank"].append(rank[example, place, head])
        columns["confidence"].append(confidence[example, place, head])
        for name, signal in of_token.items():
            columns[name].append(signal[example, token])
    return Targets(**{name: np.concatenate(parts) for name, parts in columns.items()})


def target_ranks(
    model: MTPModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor,
    chunk_rows: int = 2048,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return of every target of `labels [B,S,H]` its cross entropy, its rank, and the head's confidence.

    rank: how many tokens have a larger logit. confidence: probability of the likeliest token. All are 0
    where there is no target. The cross entropy comes from the logits that the rank needs, of which no
    more than `chunk_rows` rows exist at a time.
    """
    ce = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
    rank, confidence = torch.zeros_like(labels), torch.zeros_like(ce)
    for k, head in enumerate(model.hidden_states(input_ids, attention_mask)):
        for chunk in (labels[..., k] != IGNORE_INDEX).nonzero().split(chunk_rows):
            b, t = chunk.unbind(1)
            logits = logits_of(model.backbone, head[b, t]).float()
            target = logits.gather(1, labels[b, t, k, None])
            total = logits.logsumexp(dim=1)
            ce[b, t, k] = total - target[:, 0]
            rank[b, t, k] = (logits > target).sum(dim=1)
            confidence[b, t, k] = (logits.amax(dim=1) - total).exp()
    return ce, rank, confidence


def _token_signals(
    rows: list[tuple[int, Any]],
    length: int,
    classes: Sequence[np.ndarray],
    ce: np.ndarray,
    ref_ce: Tensor | None,
) -> dict[str, np.ndarray]:
    """Return position, token_class and difficulty [B,S] by the token that they are about."""
    position = np.zeros((len(rows), length), dtype=np.int64)
    token_class = np.full((len(rows), length), len(TOKEN_CLASSES) - 1)
    for row, (index, item) in enumerate(rows):
        places = np.flatnonzero(item.completion)
        position[row, places] = np.arange(len(places))
        known = classes[index][: len(places)]  # what follows them belongs to no text
        token_class[row, places[: len(known)]] = known
    if ref_ce is None:
        # The token at j is head 0's target at j - 1.
        difficulty = np.concatenate([np.zeros((len(rows), 1)), ce[:, :-1, 0]], axis=1)
    else:
        difficulty = ref_ce.numpy()
    return {"position": position, "token_class": token_class, "difficulty": difficulty}


def per_head(targets: Targets, num_heads: int) -> dict[str, Any]:
    """Return for each `head_k` its row `all`, and rows by `position`, `token_class` and `difficulty`.

    A row has `n` targets, their mean `ce` in nats, the share `top1` and `top5` whose token is the
    likeliest or among the five likeliest, and `calibration_error`: the expected one over ten bins of
    confidence (Guo et al. 2017, arXiv:1706.04599, equation 3). Groups without a target are left out.
    difficulty: quarters of the tokens, `1` the easiest; the same tokens for every head. Nothing comes
    back when a loss is no number.
    """
    if not np.isfinite(targets.ce).all():
        return {}
    edges = np.quantile(targets.difficulty[targets.head == 0], (0.25, 0.5, 0.75))
    quarter = np.searchsorted(edges, targets.difficulty, side="left")
    place = np.searchsorted(POSITIONS, targets.position, side="right") - 1
    names = [f"{a}-{b - 1}" for a, b in itertools.pairwise(POSITIONS)]
    groupings = {
        "position": (place, [*names, f"{POSITIONS[-1]}-"]),
        "token_class": (targets.token_class, list(TOKEN_CLASSES)),
        "difficulty": (quarter, ["1", "2", "3", "4"]),
    }
    found: dict[str, Any] = {}
    for head in range(num_heads):
        of_head = targets.head == head
        if not of_head.any():
            continue
        found[f"head_{head}"] = {"all": _row(targets, of_head)} | {
            grouping: {
                name: _row(targets, chosen)
                for value, name in enumerate(labels)
                if (chosen := of_head & (group == value)).any()
            }
            for grouping, (group, labels) in groupings.items()
        }
    return found


def _row(targets: Targets, chosen: np.ndarray) -> dict[str, float]:
    right = targets.rank[chosen] == 0
    return {
        "n": int(chosen.sum()),
        "ce": float(targets.ce[chosen].mean(dtype=np.float64)),
        "top1": float(right.mean()),
        f"top{TOP}": float((targets.rank[chosen] < TOP).mean()),
        "calibration_error": calibration_error(targets.confidence[chosen], right.astype(float)),
    }


def head_analysis(
    model: MTPModel,
    data: EncodedSet,
    collate: Collate,
    tokenizer: PreTrainedTokenizerBase,
    boundary: Boundary,
) -> dict[str, Any]:
    """Return `per_head` of `model` on `data`, whose completions `tokenizer` made tokens of."""
    examples = [item.example for item in data.items]
    spans = completion_spans(examples, tokenizer, boundary)
    classes = [
        token_classes(example.prompt, example.completion, of_tokens)
        for example, of_tokens in zip(examples, spans, strict=True)
    ]
    return per_head(measure_targets(model, data, collate, classes), model.num_heads)
