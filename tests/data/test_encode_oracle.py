"""Tokens, masks, faults and counts against plain Python, for tokenizers, templates and texts at random."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.data.test_templates import CHATML
from wmtp.data.encode import encode_examples
from wmtp.data.example import Example
from wmtp.data.templates import frame, use_template
from wmtp.data.tokenizer import train_tokenizer
from wmtp.errors import DataError

SAMPLES = ["user\nassistant\nab ab\u00e9 \u4f60", "### Response:\nreturn a + b\n"] * 3


def sentencepiece_like() -> PreTrainedTokenizerBase:
    """Return pieces with a space before every text, compatibility characters replaced, and bytes."""
    words = ["\u2581", "a", "b", "ab", "\u2581a", "\u2581ab", "\n", "\u00e9"]
    pieces = [("<unk>", 0.0), *((word, -2.0 - len(word) / 10) for word in words)]
    pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    core = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
    )


@functools.cache
def tokenizer_of(kind: str, template: str) -> PreTrainedTokenizerBase:
    made = train_tokenizer(SAMPLES, 310) if kind == "bytes" else sentencepiece_like()
    if template == "chat":
        marks = ("<|im_start|>", "<|im_end|>")
        made.add_tokens([AddedToken(name, special=True) for name in marks])
        made.chat_template, made.eos_token = CHATML, "<|im_end|>"
    use_template(made, template)
    return made


class Expected(NamedTuple):
    """What one example has to become, uncut; chars: those of the completion that a token holds."""

    ids: list[int]
    first: int
    chars: list[set[int]]
    num_lead: int


def expected(example: Example, kind: str, template: str, boundary: str) -> Expected:
    tokenizer = tokenizer_of(kind, template)
    before, after = example.prompt, ""
    if template == "alpaca":
        before = (
            "Below is an instruction that describes a task. Write a response that appropriately "
            f"completes the request.\n\n### Instruction:\n{example.prompt}\n\n### Response:"
        )
    if template == "chat":
        before = f"<|im_start|>user\n{example.prompt}<|im_end|>\n<|im_start|>assistant\n"
        after = "<|im_end|>"

    def tokens(text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return found["input_ids"], found["offset_mapping"]

    start = [] if template == "chat" else [tokenizer.bos_token_id]
    end = tokens(after)[0] if after else [tokenizer.eos_token_id]
    begin, lead = 0, 0
    if boundary == "split":
        prompt, (learned, spans) = tokens(before)[0], tokens(example.completion)
    else:
        begin = len(before)
        whole, spans = tokens(before + example.completion)
        place = 0
        while place < len(whole) and spans[place][1] <= begin:
            place += 1
        prompt, learned, spans = whole[:place], whole[place:], spans[place:]
        lead = max(0, begin - spans[0][0]) if spans else 0
    chars = [set(range(max(0, a - begin), b - begin)) for a, b in spans]
    num_lead = len(before[len(before) - lead :].encode())
    return Expected([*start, *prompt, *learned, *end], len(start + prompt), chars, num_lead)


TEXT = st.text(st.sampled_from("ab \n\t\u00e9\u4f60\U0001f600\ufb01e\u0301<>/s"), max_size=12)


@st.composite
def example(draw: st.DrawFn) -> Example:
    prompt, completion = draw(TEXT), draw(TEXT)
    spans = ()
    if completion and draw(st.booleans()):
        start = draw(st.integers(0, len(completion) - 1))
        spans = ((start, draw(st.integers(start + 1, len(completion)))),)
    if draw(st.booleans()):
        spans += ((len(completion), len(completion)),)
    return Example("t", prompt, completion, fault_spans=spans)


@given(
    st.lists(example(), min_size=1, max_size=4),
    st.sampled_from(["bytes", "pieces"]),
    st.sampled_from(["plain", "chat", "alpaca"]),
    st.sampled_from(["split", "joint"]),
    st.sampled_from(["cut", "drop", "error"]),
    st.integers(1, 40),
)
@settings(max_examples=150, deadline=None)
def test_examples_become_what_plain_python_says(
    examples: list[Example], kind: str, template: str, boundary: str, truncation: str, room: int
) -> None:
    tokenizer = tokenizer_of(kind, template)
    wanted = [expected(one, kind, template, boundary) for one in examples]
    # Somewhere between nothing and everything, whatever the template.
    max_length = room + min(want.first for want in wanted)
    kept, cut, empty = [], 0, 0
    for one, want in zip(examples, wanted, strict=True):
        too_long = len(want.ids) > max_length
        if too_long and truncation == "error":
            with pytest.raises(DataError, match=f"has {len(want.ids)} tokens"):
                encode_examples(
                    examples, tokenizer, max_length, "x", boundary=boundary, truncation=truncation
                )
            return
        if not want.chars:
            empty += 1
        elif want.first < max_length and not (too_long and truncation == "drop"):
            kept.append((one, want))
            cut += too_long
    settings = {"boundary": boundary, "truncation": truncation}
    if not kept:
        with pytest.raises(DataError, match="nothing to learn"):
            encode_examples(examples, tokenizer, max_length, "x", **settings)
        return
    found = encode_examples(examples, tokenizer, max_length, "x", **settings)
    counts = (found.truncated, found.dropped, found.empty)
    assert counts == (cut, len(examples) - len(kept), empty)
    for (one, want), item in zip(kept, found.items, strict=True):
        n = min(len(want.ids), max_length)
        assert item.input_ids.tolist() == want.ids[:n]
        assert item.completion.tolist() == [place >= want.first for place in range(n)]
        faulty = {char for a, b in one.fault_spans for char in range(a, b)}
        chars = [set[int]()] * want.first + want.chars + [set[int]()] * n
        fault = [bool(chars[place] & faulty) for place in range(n)]
        end = want.first + len(want.chars)
        if end < n:
            fault[end] = any(a == b for a, b in one.fault_spans)
        assert item.fault.tolist() == fault
        learned = set().union(*chars[want.first : n])
        text = one.completion[: max(learned, default=-1) + 1]
        if len(want.ids) <= n:
            text = one.completion
        assert item.num_bytes == want.num_lead + len(text.encode())


def test_what_is_cut_dropped_and_empty_is_told_apart() -> None:
    tokenizer = tokenizer_of("bytes", "plain")
    examples = [
        Example("short", "a", "b"),
        Example("long", "a", "xyz" * 50),
        Example("prompt", "q" * 60, "b"),
        Example("empty", "a", ""),
        Example("marked", "a", "x</s>y"),
    ]
    found = encode_examples(examples, tokenizer, 20, "here")
    assert [item.example.task_id for item in found.items] == ["short", "long", "marked"]
    assert (found.truncated, found.dropped, found.empty, found.special) == (1, 2, 1, 1)


@pytest.mark.parametrize(
    ("settings", "spans", "max_length"),
    [({"boundary": "joint"}, (), 50), ({}, ((0, 1),), 50), ({}, (), 5)],
)
def test_a_tokenizer_without_character_offsets_is_refused_where_they_are_needed(
    settings: dict[str, str], spans: tuple[tuple[int, int], ...], max_length: int
) -> None:
    slow = ByT5Tokenizer()
    plain = encode_examples([Example("t", "ab", "cd")], slow, 50, "here").items[0]
    assert slow.decode(plain.input_ids[plain.completion].tolist()) == "cd</s>"
    with pytest.raises(DataError, match="tokenizer ByT5Tokenizer does not say which characters"):
        encode_examples(
            [Example("t", "ab", "cdef", fault_spans=spans)], slow, max_length, "here", **settings
        )


def test_templates_with_a_date_give_the_same_tokens_every_day() -> None:
    tokenizer = train_tokenizer(SAMPLES, 300)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
    use_template(tokenizer, "chat")
    assert frame("x", tokenizer).before.startswith("01 Jan 2024\n")
