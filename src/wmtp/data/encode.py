"""From text to tokens: one sequence per example, with what is known about each token."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from wmtp.data.example import Example
from wmtp.data.tokenizer import start_token
from wmtp.errors import DataError


@dataclass(frozen=True, eq=False)
class Encoded:
    """One training sequence: start token, prompt, completion, end token.

    input_ids [S] int32. completion [S]: tokens that are learned (the end token too, when nothing was
    cut). fault [S]: tokens that overlap a planted fault. num_bytes: UTF-8 bytes of the learned text.
    ref_ce [S]: reference cross entropy of each token in nats, or None.
    """

    example: Example
    input_ids: np.ndarray
    completion: np.ndarray
    fault: np.ndarray
    num_bytes: int
    ref_ce: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class EncodedSet:
    """Encoded examples in their source's order, and what was cut on the way.

    truncated: examples whose completion was cut at max_length. dropped: examples without a single
    target left, because the prompt alone fills max_length or the completion is empty.
    """

    items: list[Encoded]
    truncated: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def digest(self) -> str:
        """Return a hash of all tokens and masks, in order."""
        state = hashlib.sha256()
        for item in self.items:
            state.update(len(item).to_bytes(8, "little"))
            state.update(item.input_ids.tobytes())
            state.update(item.completion.tobytes())
        return state.hexdigest()[:32]

    def with_reference(self, ref_ce: Sequence[np.ndarray]) -> EncodedSet:
        """Return the same set with the reference cross entropy of every token."""
        items = [replace(i, ref_ce=ce) for i, ce in zip(self.items, ref_ce, strict=True)]
        return replace(self, items=items)


def encode_examples(
    examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, where: str
) -> EncodedSet:
    """Encode examples; prompt and completion are split into tokens apart from each other.

    So a generated completion meets the same tokens as a trained one. Completions are cut at
    `max_length` tokens; an example with no target left is dropped. Both are counted, and a set with
    nothing left is a `DataError` that names `where`.
    """
    items: list[Encoded] = []
    truncated = dropped = empty = 0
    for example in examples:
        encoded, was_cut = _encode(example, tokenizer, max_length)
        truncated += was_cut
        if encoded is None:
            dropped += 1
            empty += not example.completion
        else:
            items.append(encoded)
    if not items:
        if not dropped:
            reason = "there are no examples; check the file and the name of the split"
        elif empty == dropped:
            reason = f"all {dropped} completions are empty; check the data"
        else:
            reason = f"all {dropped} examples have no target within data.max_length {max_length}; raise it"
        raise DataError(f"{where}: nothing to learn: {reason}.")
    return EncodedSet(items, truncated, dropped)


def prompt_ids(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that a completion of `prompt` follows."""
    return [start_token(tokenizer), *tokenizer.encode(prompt, add_special_tokens=False)]


def _encode(
    example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Encoded | None, bool]:
    prompt = prompt_ids(example.prompt, tokenizer)
    split = tokenizer(
        example.completion, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    room = max_length - len(prompt)
    whole = [*split["input_ids"], int(tokenizer.eos_token_id)]
    kept = whole[: max(room, 0)]
    was_cut = len(kept) < len(whole)
    if not kept or not split["input_ids"]:
        return None, was_cut
    offsets = [*split["offset_mapping"], (len(example.completion), len(example.completion))]
    offsets = offsets[: len(kept)]
    fault = [any(a < stop and start < b for start, stop in example.fault_spans) for a, b in offsets]
    learned_text = example.completion[: offsets[-1][1]]
    nothing = np.zeros(len(prompt), dtype=bool)
    encoded = Encoded(
        example=example,
        input_ids=np.array(prompt + kept, dtype=np.int32),
        completion=np.concatenate([nothing, np.ones(len(kept), dtype=bool)]),
        fault=np.concatenate([nothing, np.array(fault, dtype=bool)]),
        num_bytes=len(learned_text.encode("utf-8", "surrogatepass")),
    )
    return encoded, was_cut
