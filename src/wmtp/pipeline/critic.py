"""What a critic needs around training: the values of another model, and what it said before."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save

from wmtp.algorithms.base import Algorithm
from wmtp.data.collate import Collate
from wmtp.data.encode import Encoded, EncodedSet
from wmtp.data.reference import weights_hash
from wmtp.data.reference_cache import CachedValues, Kind
from wmtp.data.tokenizer import fingerprint, load_tokenizer, require_same
from wmtp.display import Display
from wmtp.errors import CheckpointError, ConfigError
from wmtp.evaluation.held_out import HeldOut
from wmtp.modeling.checkpoint import HEADS_FILE, SETTINGS_FILE, read_heads
from wmtp.modeling.mtp import MTPModel
from wmtp.outputs import atomic_write
from wmtp.pipeline.data import Data
from wmtp.weighting import value_of_fold

_VALUE = Kind("value", "<f4")
_BATCH = 32


def add_values(data: Data, checkpoint: Path, cache: Path, device: str, display: Display) -> Data:
    """Return `data` with the value of every state by the critic in the folder `checkpoint`.

    As `wmtp.data.reference.with_reference_ce`, the values are computed once and mapped from a file in
    `cache`. Where the critic has heads of several folds, a sample gets the value of the one that its
    problem was left out for. A critic without a value head, with another tokenizer or with values that
    are no numbers is a `CheckpointError`.
    """
    settings, _ = read_heads(checkpoint)
    if settings.value_head is None:
        raise CheckpointError(
            f"{checkpoint}: algorithm.values_from needs a value head, and this checkpoint has none. Give a "
            "run of critic-wmtp; value_phase.share 1 trains a critic and no policy."
        )
    require_same(data.tokenizer, load_tokenizer(checkpoint), str(checkpoint))
    if settings.value_folds == 1:
        display.say(
            f"{checkpoint}: a critic without cross_fit: on problems that it was fitted on, its values are "
            "nearer to the rewards than on others"
        )
    facts = {
        "critic": weights_hash(checkpoint, (HEADS_FILE, SETTINGS_FILE)),
        "tokenizer": fingerprint(data.tokenizer),
        "transformers": transformers.__version__,
    }
    load = functools.cache(lambda: _critic(checkpoint, device))

    def valued(name: str, part: EncodedSet) -> EncodedSet:
        ends = np.cumsum([len(item) for item in part.items])
        problems = ",".join(str(item.example.problem) for item in part.items)
        mine = {
            **facts,
            "data": part.digest(),
            "problems": hashlib.sha256(problems.encode()).hexdigest()[:32],
        }
        with display.stage(f"critic's values, {name} data") as update:

            def compute(first: int, last: int) -> np.ndarray:
                found = _values(load(), part.items[first:last], checkpoint)
                update(last, len(part.items))
                return found

            values = CachedValues(cache, mine, _VALUE).get(ends, compute, display.say)
        return part.with_values(np.split(values, ends[:-1]))

    held_out = None if data.validation is None else valued("validation", data.validation)
    return replace(data, train=valued("training", data.train), validation=held_out)


def _critic(checkpoint: Path, device: str) -> MTPModel:
    # Each of the processes that torchrun starts has a device of its own.
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
    return MTPModel.from_pretrained(checkpoint).eval().to(own)


@torch.no_grad()
def _values(model: MTPModel, items: list[Encoded], checkpoint: Path) -> np.ndarray:
    """Return the values of all states of these samples, one after another, in float32."""
    collate = Collate(1, 0)
    by_length = np.argsort([len(item) for item in items], kind="stable")
    found: list[np.ndarray] = [np.empty(0)] * len(items)
    for start in range(0, len(items), _BATCH):
        members = by_length[start : start + _BATCH]
        batch = collate([(0, items[i]) for i in members])
        names = ("input_ids", "attention_mask", "labels")
        inputs = {name: batch[name].to(model.device) for name in names}
        value = model.values(**inputs)
        assert value is not None
        rows = value_of_fold(value, batch["problem"].to(model.device)).cpu().numpy()
        for i, row in zip(members, rows, strict=True):
            found[i] = row[: len(items[i])]
    values = np.concatenate(found)
    if not np.isfinite(values).all():
        raise CheckpointError(
            f"{checkpoint}: the critic gives some states a value that is no number. Its weights are "
            "damaged, or its training diverged; choose another checkpoint."
        )
    return values


def require_whole_pairs(algorithm: Algorithm[Any], micro: int) -> None:
    """Refuse forwards of `micro` sequences where they cut pairs that the algorithm needs whole."""
    if "pairs" in algorithm.needs and micro % 2:
        raise ConfigError(
            f"value_loss pairwise needs both samples of a pair in a forward, which has {micro} sequences. "
            "Set environment micro_batch to an even number."
        )


def keep_values(held_out: HeldOut, file: Path) -> Callable[[MTPModel], None]:
    """Return what to call at the end of phase `value`: it keeps the held-out values, in `file` too."""

    def keep(model: MTPModel) -> None:
        values = held_out.keep_values(model)
        if values is not None and int(os.environ.get("RANK", "0")) == 0:
            with atomic_write(file, "wb") as stream:
                stream.write(save({_VALUE.name: values}))

    return keep


def restore_values(held_out: HeldOut, file: Path) -> None:
    """Put back what `keep_values` has kept, if it has."""
    if file.exists():
        held_out.values_before = load_file(file)[_VALUE.name]
