"""Cross entropy of a reference model, computed once per data set and kept on disk."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wmtp.data.encode import Encoded, EncodedSet
from wmtp.data.reference_cache import CachedValues
from wmtp.data.tokenizer import fingerprint, load_tokenizer, require_same
from wmtp.errors import CheckpointError
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
    progress: Progress = lambda done, total: None,
    say: Callable[[str], None] = lambda text: None,
) -> EncodedSet:
    """Return `data` with `ref_ce`: nats of every token under the reference, 0 at the first.

    The values are float16, mapped from a file in the folder `cache` under a key of the reference's
    weights and configuration, the tokens, the tokenizer and the version of transformers, so that
    training holds no reference model and no two references are mixed up. Processes that need the same
    values share the work part by part, and what one had finished when it was killed is kept. A file
    that is damaged or belongs to something else is built again; `say` is told why. A reference with
    another tokenizer, fewer positions than the data need or losses that are no numbers is a
    `CheckpointError`.
    """
    require_same(tokenizer, load_tokenizer(checkpoint), str(checkpoint))
    facts = {
        "reference": weights_hash(checkpoint),
        "data": data.digest(),
        "tokenizer": fingerprint(tokenizer),
        "transformers": transformers.__version__,
    }
    ends = np.cumsum([len(item) for item in data.items])
    compute = _Computation(data.items, checkpoint, device, batch_size, progress)
    values = CachedValues(cache, facts).get(ends, compute, say)
    return data.with_reference(np.split(values, ends[:-1]))


def weights_hash(checkpoint: Path, also: Sequence[str] = ()) -> str:
    """Return a hash of a model's weights, its configuration and the files `also` in its folder."""
    state = hashlib.sha256()
    names = ("model*.safetensors", "config.json", *also)
    weights = sorted(file for name in names for file in checkpoint.glob(name))
    if not any(w.suffix == ".safetensors" for w in weights):
        raise CheckpointError(f"{checkpoint}: the model has no safetensors weights.")
    for file in weights:
        with file.open("rb") as stream:
            state.update(hashlib.file_digest(stream, "sha256").digest())
    return state.hexdigest()[:32]


class _Computation:
    """Computes the values of samples first..last; the model is loaded when it is first needed."""

    def __init__(
        self,
        items: list[Encoded],
        checkpoint: Path,
        device: str,
        batch_size: int,
        progress: Progress,
    ) -> None:
        self.items = items
        self.checkpoint = checkpoint
        # Each of the processes that torchrun starts has a device of its own.
        self.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
        self.batch_size = batch_size
        self.progress = progress

    @functools.cached_property
    def model(self) -> PreTrainedModel:
        """The reference in evaluation mode."""
        model = load_causal_lm(self.checkpoint)
        longest = max(len(item) for item in self.items)
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and positions < longest:
            raise CheckpointError(
                f"{self.checkpoint}: the reference has {positions} positions, the data need {longest}. "
                "Lower data.max_length, or choose a reference for longer text."
            )
        return model.eval().to(self.device)

    @torch.no_grad()
    def __call__(self, first: int, last: int) -> np.ndarray:
        """Return the values of all tokens of these samples, one after another, in float16."""
        # Long with long: less padding. The result does not depend on it.
        items = self.items[first:last]
        by_length = np.argsort([len(item) for item in items], kind="stable")
        found: list[np.ndarray] = [np.empty(0)] * len(items)
        for start in range(0, len(items), self.batch_size):
            members = by_length[start : start + self.batch_size]
            rows = _token_ce(self.model, [items[i].input_ids for i in members])
            for i, ce in zip(members, rows, strict=True):
                found[i] = ce
            self.progress(first + min(start + self.batch_size, len(items)), len(self.items))
        with np.errstate(over="ignore"):
            values = np.concatenate(found).astype(np.float16)
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{self.checkpoint}: the reference gives some tokens a loss that is no number. Its weights "
                "are damaged, or its training diverged; choose another checkpoint."
            )
        return values


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
