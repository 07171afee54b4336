"""Cross entropy of a reference model, computed once per data set and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wmtp.data.encode import EncodedSet
from wmtp.data.tokenizer import fingerprint, load_tokenizer, require_same
from wmtp.errors import CheckpointError
from wmtp.outputs import atomic_write
from wmtp.pretrained import load_causal_lm

Progress = Callable[[int, int], None]

# Logits of one forward hold about this many elements (1 GiB in float32), whatever the vocabulary.
_LOGITS_ELEMENTS = 1 << 28


def with_reference_ce(
    data: EncodedSet,
    checkpoint: Path,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    *,
    device: str = "cpu",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> EncodedSet:
    """Return `data` with `ref_ce`: nats of every token under the reference, 0 at the first.

    The result is kept in the folder `cache` under a key of the reference's weights, the data and the
    tokenizer, so that training holds no reference model and no two references are mixed up. A reference
    with another tokenizer is a `CheckpointError`.
    """
    require_same(tokenizer, load_tokenizer(checkpoint), str(checkpoint))
    key = _key(checkpoint, data, tokenizer)
    file = cache / f"ref_ce-{key}.safetensors"
    flat = _read(file, key, sum(len(item) for item in data.items))
    if flat is None:
        flat = _compute(data, checkpoint, device, batch_size, progress)
        if not np.isfinite(flat).all():
            raise CheckpointError(
                f"{checkpoint}: the reference gives some tokens a loss that is no number. Its weights are "
                "damaged, or its training diverged; choose another checkpoint."
            )
        with atomic_write(file, "wb") as stream:
            stream.write(save({"ref_ce": flat}, metadata={"key": key}))
    bounds = np.cumsum([len(item) for item in data.items])[:-1]
    return data.with_reference(np.split(flat, bounds))


def _key(checkpoint: Path, data: EncodedSet, tokenizer: PreTrainedTokenizerBase) -> str:
    state = hashlib.sha256()
    weights = sorted([*checkpoint.glob("model*.safetensors"), *checkpoint.glob("config.json")])
    if not any(w.suffix == ".safetensors" for w in weights):
        raise CheckpointError(f"{checkpoint}: the reference has no safetensors weights.")
    for file in weights:
        with file.open("rb") as stream:
            state.update(hashlib.file_digest(stream, "sha256").digest())
    state.update(data.digest().encode())
    state.update(fingerprint(tokenizer).encode())
    return state.hexdigest()[:32]


def _read(file: Path, key: str, size: int) -> np.ndarray | None:
    """Return the cached values, None when there are none; a damaged file counts as none."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="numpy") as opened:
            values = opened.get_tensor("ref_ce")
            fits = (opened.metadata() or {}).get("key") == key and values.shape == (size,)
    except SafetensorError:
        return None
    return values if fits else None


@torch.no_grad()
def _compute(
    data: EncodedSet, checkpoint: Path, device: str, batch_size: int, progress: Progress | None
) -> np.ndarray:
    model = load_causal_lm(checkpoint)
    model = model.eval().to(device)
    # Long with long: less padding. The result does not depend on it.
    by_length = np.argsort([len(item) for item in data.items], kind="stable")
    found: list[np.ndarray] = [np.empty(0)] * len(data)
    for start in range(0, len(by_length), batch_size):
        members = by_length[start : start + batch_size]
        for i, ce in zip(
            members, _token_ce(model, [data.items[i].input_ids for i in members]), strict=True
        ):
            found[i] = ce
        if progress is not None:
            progress(min(start + batch_size, len(data)), len(data))
    return np.concatenate(found).astype(np.float32)


def _token_ce(model: PreTrainedModel, rows: list[np.ndarray]) -> list[np.ndarray]:
    """Return the cross entropy of every token of every row, 0 for the first of a row."""
    length = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(row)
        mask[i, : len(row)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    # The model's own logits are right for every family, whatever it does to them; rows of a large
    # vocabulary go in turn.
    at_once = max(1, _LOGITS_ELEMENTS // (length * model.config.get_text_config().vocab_size))
    found = []
    for some, their_mask in zip(ids.split(at_once), mask.split(at_once), strict=True):
        logits = model(input_ids=some, attention_mask=their_mask, use_cache=False).logits
        for row, row_logits in zip(some, logits, strict=True):
            ce = F.cross_entropy(row_logits[:-1].float(), row[1:], reduction="none")
            found.append(F.pad(ce, (1, 0)).cpu().numpy())
    return [ce[: len(row)] for ce, row in zip(found, rows, strict=True)]
