"""From text to tokens: one sequence per example, with what is known about each token."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from wmtp.data.example import Example
from wmtp.data.templates import Frame, frame
from wmtp.data.tokenizer import start_token
from wmtp.errors import DataError

Boundary = Literal["split", "joint"]
Truncation = Literal["cut", "drop", "error"]

# Examples that are given to the tokenizer at once; it has a thread for each core.
_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Encoded:
    """One training sequence: start token, prompt, completion, end token.

    input_ids [S] int32. completion [S]: tokens that are learned (the end token too, when nothing was
    cut). fault [S]: tokens that overlap a known fault, or, where something is missing at the end of the
    text, the one that comes instead. num_bytes: UTF-8 bytes of the learned text,
    without what a template puts after it. num_tail: learned tokens at the end that are no text of the
    completion, such as the end token. ref_ce [S]: reference cross entropy of each token in nats, or
    None. value [S]: a critic's value of the state after each token, or None.
    """

    example: Example
    input_ids: np.ndarray
    completion: np.ndarray
    fault: np.ndarray
    num_bytes: int
    num_tail: int = 0
    ref_ce: np.ndarray | None = None
    value: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class EncodedSet:
    """Encoded examples in their source's order, and what was cut on the way.

    truncated: examples among them whose completion was cut at max_length. dropped: examples that are
    not, because the prompt alone fills max_length, `truncation` is drop, or, as `empty` of these, there
    is no completion. special: examples among them whose completion holds the text of a special token,
    which the tokenizer takes for that token.
    """

    items: list[Encoded]
    truncated: int = 0
    dropped: int = 0
    empty: int = 0
    special: int = 0

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

    def with_values(self, values: Sequence[np.ndarray]) -> EncodedSet:
        """Return the same set with a critic's value of every state."""
        items = [replace(i, value=value) for i, value in zip(self.items, values, strict=True)]
        return replace(self, items=items)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Tokens of one example: prompt, completion, and what follows it.

    spans: half-open character range of every completion token in the completion, None where nobody
    asked. lead: text before the completion that its first token holds too.
    """

    prompt: list[int]
    completion: list[int]
    tail: list[int]
    spans: list[tuple[int, int]] | None
    lead: str = ""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion) + len(self.tail)


def encode_examples(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    where: str,
    *,
    boundary: Boundary = "split",
    truncation: Truncation = "cut",
) -> EncodedSet:
    """Encode examples under the tokenizer's template (`wmtp.data.templates`).

    boundary: `split` makes tokens of prompt and completion apart from each other, so that a generated
    completion meets the same tokens as a trained one. `joint` makes them of the text as a whole; a token
    that holds characters of both is learned, so that no character of a completion goes unlearned.
    truncation: what happens to an example of more than `max_length` tokens. `cut` cuts its completion,
    `drop` leaves it out, `error` is a `DataError`. What is cut and dropped is counted. A set with nothing
    left is a `DataError`; both name `where`. `joint`, faults and cut completions need a tokenizer that
    says which characters its tokens hold; another one is a `DataError`.
    """
    items: list[Encoded] = []
    truncated = dropped = empty = special = 0
    special_ids = _special_ids(tokenizer)
    waiting = iter(examples)
    while chunk := list(islice(waiting, _AT_ONCE)):
        for example, tokens in zip(chunk, _tokens(chunk, tokenizer, boundary), strict=True):
            too_long = len(tokens) > max_length
            if too_long and truncation == "error":
                raise DataError(
                    f"{where}: {example.task_id} has {len(tokens)} tokens, data.max_length is "
                    f"{max_length}. Raise it, or set data.truncation to cut or drop."
                )
            has_target = bool(tokens.completion) and len(tokens.prompt) < max_length
            if has_target and not (too_long and truncation == "drop"):
                items.append(_encoded(example, tokens, tokenizer, max_length))
                truncated += too_long
                special += not special_ids.isdisjoint(tokens.completion)
            else:
                dropped += 1
                empty += not tokens.completion
    if not items:
        if not dropped:
            reason = "there are no examples; check the file and the name of the split"
        elif empty == dropped:
            reason = f"all {dropped} completions are empty; check the data"
        elif truncation == "drop":
            reason = f"all {dropped} examples have more than data.max_length {max_length} tokens; raise it"
        else:
            reason = f"all {dropped} examples have no target within data.max_length {max_length}; raise it"
        raise DataError(f"{where}: nothing to learn: {reason}.")
    return EncodedSet(items, truncated, dropped, empty, special)


def prompt_ids(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that a completion of `prompt` follows, under the tokenizer's template."""
    around = frame(prompt, tokenizer)
    (ids,) = _split([around.before], tokenizer)["input_ids"]
    return [*_start(around, tokenizer), *ids]


def completion_spans(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, boundary: Boundary = "split"
) -> list[list[tuple[int, int]]]:
    """Return the half-open character range in its completion of every token of each completion.

    A first token that holds characters of the prompt too begins below 0.
    """
    if boundary == "joint":
        return [tokens.spans or [] for tokens in _tokens(list(examples), tokenizer, boundary)]
    return _spans([example.completion for example in examples], tokenizer)


def _tokens(
    examples: list[Example], tokenizer: PreTrainedTokenizerBase, boundary: Boundary
) -> Iterator[_Tokens]:
    frames = [frame(example.prompt, tokenizer) for example in examples]
    completions = [example.completion for example in examples]
    starts = [_start(around, tokenizer) for around in frames]
    tails = {after: _tail(after, tokenizer) for after in {around.after for around in frames}}
    if boundary == "joint":
        texts = [around.before + text for around, text in zip(frames, completions, strict=True)]
        split = _split(texts, tokenizer, offsets=True)
        whole = zip(frames, starts, split["input_ids"], split["offset_mapping"], strict=True)
        for around, start, ids, offsets in whole:
            begin = len(around.before)
            # Offsets may leave out the spaces a token begins with, so its end decides whose it is.
            first = next((i for i, (_, stop) in enumerate(offsets) if stop > begin), len(ids))
            spans = [(a - begin, b - begin) for a, b in offsets[first:]]
            lead = around.before[offsets[first][0] :] if first < len(ids) else ""
            tail = tails[around.after]
            yield _Tokens([*start, *ids[:first]], ids[first:], tail, spans, lead)
        return
    prompts = _split([around.before for around in frames], tokenizer)["input_ids"]
    # Offsets cost more than the tokens do, and few examples need them.
    marked = [i for i, example in enumerate(examples) if example.fault_spans]
    spans_of = dict(zip(marked, _spans([completions[i] for i in marked], tokenizer), strict=True))
    for i, ids in enumerate(_split(completions, tokenizer)["input_ids"]):
        tail = tails[frames[i].after]
        yield _Tokens([*starts[i], *prompts[i]], ids, tail, spans_of.get(i))


def _spans(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[tuple[int, int]]]:
    """Return the character range of every token of every text."""
    return _split(texts, tokenizer, offsets=True)["offset_mapping"] if texts else []


def _split(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, *, offsets: bool = False
) -> dict[str, list[Any]]:
    found = tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=offsets,
        verbose=False,
    )
    if offsets and "offset_mapping" not in found:
        raise DataError(
            f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} does not say which "
            "characters its tokens hold, which data.boundary joint, planted faults and completions cut at "
            "data.max_length need. Set tokenizer.pretrained to a folder with a tokenizer.json."
        )
    return dict(found)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the special tokens, without the one that stands for unknown characters alone."""
    named = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return set(tokenizer.all_special_ids) - ({tokenizer.unk_token_id} - named)


def _start(around: Frame, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [start_token(tokenizer)] if around.starts else []


def _tail(after: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what is learned after a completion: the template's text, up to the end token."""
    end = int(tokenizer.eos_token_id)
    ids: list[int] = _split([after], tokenizer)["input_ids"][0] if after else []
    return [*ids[: ids.index(end)], end] if end in ids else [*ids, end]


def _encoded(
    example: Example, tokens: _Tokens, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Encoded:
    """Return the first `max_length` tokens and what is known of them."""
    num_prompt = len(tokens.prompt)
    kept = [*tokens.completion, *tokens.tail][: max_length - num_prompt]
    num_text = min(len(kept), len(tokens.completion))
    spans, learned = tokens.spans, example.completion
    if num_text < len(tokens.completion):
        spans = spans or _spans([example.completion], tokenizer)[0]
        learned = learned[: spans[num_text - 1][1]]
    completion = np.zeros(num_prompt + len(kept), dtype=bool)
    completion[num_prompt:] = True
    fault = np.zeros_like(completion)
    for start, stop in example.fault_spans:
        assert spans is not None
        for i, (a, b) in enumerate(spans[:num_text], start=num_prompt):
            fault[i] |= a < stop and start < b
        if start == stop and num_text < len(kept):
            fault[num_prompt + num_text] = True
    return Encoded(
        example=example,
        input_ids=np.array(tokens.prompt + kept, dtype=np.int32),
        completion=completion,
        fault=fault,
        num_bytes=len((tokens.lead + learned).encode("utf-8", "surrogatepass")),
        num_tail=len(kept) - num_text,
    )
