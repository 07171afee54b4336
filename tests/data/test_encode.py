"""Encoding, order, collation: what the model sees, exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny import tiny_data
from wmtp.config.recipe import OptimizationSection
from wmtp.data.collate import Collate, OrderedSamples
from wmtp.data.encode import encode_examples, prompt_ids
from wmtp.data.example import Example
from wmtp.data.order import training_order
from wmtp.data.sources.minicode.source import Minicode
from wmtp.data.tokenizer import fingerprint, load_tokenizer, require_same, train_tokenizer
from wmtp.errors import CheckpointError, DataError

TEXTS = [
    "def f(xs):\n    return sum(xs)\n",
    "def g(s):\n    return s[::-1]  # caf\u00e9 \u4f60 12\n",
] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


def budget(**settings) -> OptimizationSection:
    return OptimizationSection(**{"learning_rate": 1e-3, "global_batch": 4, **settings})


def test_tokenizer_round_trip(tokenizer, tmp_path) -> None:
    assert len(tokenizer) <= 300
    for text in [*TEXTS, "\t\r\n \x00 tab", "\U0001f600"]:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    digits = tokenizer.encode("1234", add_special_tokens=False)
    assert len(digits) == 4
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert fingerprint(again) == fingerprint(tokenizer)
    assert (again.pad_token_id, again.bos_token_id, again.eos_token_id) == (0, 1, 2)


def test_another_tokenizer_is_refused(tokenizer) -> None:
    other = train_tokenizer(["completely different words, many of them"] * 5, 290)
    require_same(tokenizer, train_tokenizer(TEXTS, 300), "ref")
    with pytest.raises(CheckpointError, match="is not the policy's"):
        require_same(tokenizer, other, "ref")


def test_no_tokenizer(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer could be loaded"):
        load_tokenizer(tmp_path / "absent")


@pytest.mark.parametrize(
    ("spans", "room", "marked"),
    [
        (((14, 14),), 100, ["</s>"]),
        (((0, 6), (14, 14)), 100, ["x = 1", "</s>"]),
        (((14, 14),), 0, []),
    ],
)
def test_what_is_missing_at_the_end_is_marked_there(
    tokenizer, spans: tuple[tuple[int, int], ...], room: int, marked: list[str]
) -> None:
    example = Example("t", "p", "x = 1\ny = [2,]", fault_spans=spans)
    whole = encode_examples([example], tokenizer, 100, "here").items[0]
    item = encode_examples([example], tokenizer, room or len(whole) - 1, "here").items[0]
    shown = "".join(tokenizer.decode([i]) for i in item.input_ids[item.fault])
    assert shown.replace("\n", "") == "".join(marked)


def test_encoding_by_hand(tokenizer) -> None:
    example = Example("t", "def f(xs):\n", "    return sum(xs)", fault_spans=((11, 14),))
    item = encode_examples([example], tokenizer, 100, "here").items[0]
    prompt = prompt_ids(example.prompt, tokenizer)
    assert prompt[0] == tokenizer.bos_token_id
    assert item.input_ids[: len(prompt)].tolist() == prompt
    assert item.input_ids[-1] == tokenizer.eos_token_id
    learned = item.input_ids[item.completion]
    assert tokenizer.decode(learned[:-1].tolist()) == example.completion
    assert not item.completion[: len(prompt)].any()
    assert item.completion[len(prompt) :].all()
    faulty = tokenizer.decode(item.input_ids[item.fault].tolist())
    assert "sum" in faulty
    assert len(faulty) <= len(" sum(")
    assert item.num_bytes == len(example.completion)


def test_truncation_and_dropping_are_counted(tokenizer) -> None:
    examples = [
        Example("short", "a", "b"),
        Example("long", "a", "xyz" * 50),
        Example("prompt", "q" * 60, "b"),
        Example("empty", "a", ""),
    ]
    found = encode_examples(examples, tokenizer, 20, "here")
    assert [item.example.task_id for item in found.items] == ["short", "long"]
    assert (found.truncated, found.dropped) == (1, 2)
    cut = found.items[1]
    assert len(cut) == 20
    assert tokenizer.eos_token_id not in cut.input_ids
    assert cut.num_bytes == len(tokenizer.decode(cut.input_ids[cut.completion].tolist()))


@pytest.mark.parametrize(
    ("examples", "reason"),
    [
        ([], "there are no examples"),
        (
            [Example("t", "q" * 60, "b"), Example("t", "q", "")],
            "all 2 examples have no target within",
        ),
        ([Example("t", "q", "")], "all 1 completions are empty"),
    ],
)
def test_nothing_to_learn_is_an_error(tokenizer, examples, reason) -> None:
    with pytest.raises(DataError, match=f"my file, split train: nothing to learn: {reason}"):
        encode_examples(examples, tokenizer, 20, "my file, split train")


def test_truncation_policies(tokenizer) -> None:
    examples = [Example("short", "a", "b"), Example("long", "a", "xyz" * 50), Example("e", "a", "")]
    found = encode_examples(examples, tokenizer, 20, "here", truncation="drop")
    assert [item.example.task_id for item in found.items] == ["short"]
    assert (found.truncated, found.dropped) == (0, 2)
    whole = encode_examples(examples[1:2], tokenizer, 1000, "here").items[0]
    for room, fits in ((len(whole), True), (len(whole) - 1, False)):
        if fits:
            assert len(encode_examples(examples, tokenizer, room, "x", truncation="error")) == 2
        else:
            with pytest.raises(
                DataError, match=rf"x: long has {len(whole)} tokens, data.max_length"
            ):
                encode_examples(examples, tokenizer, room, "x", truncation="error")
    with pytest.raises(DataError, match="all 1 examples have more than data.max_length 20 tokens"):
        encode_examples(examples[1:2], tokenizer, 20, "here", truncation="drop")


def one_at_a_time(example: Example, tokenizer, max_length: int) -> tuple[list[int], list[bool]]:
    """Tokens and faults of an example as defined, without batches."""
    split = tokenizer(example.completion, add_special_tokens=False, return_offsets_mapping=True)
    prompt = [tokenizer.bos_token_id, *tokenizer.encode(example.prompt, add_special_tokens=False)]
    fault = [False] * len(prompt)
    for a, b in split["offset_mapping"]:
        fault.append(any(a < stop and start < b for start, stop in example.fault_spans))
    ids = [*prompt, *split["input_ids"], tokenizer.eos_token_id]
    length = len(example.completion)
    return ids[:max_length], [*fault, (length, length) in example.fault_spans][:max_length]


def test_batches_are_encoded_as_one_example_at_a_time() -> None:
    """Minicode with planted faults, more than the tokenizer is given at once, some of it cut."""
    examples = list(Minicode(Minicode.Config(num_problems=400)).examples("train"))
    assert len(examples) > 1024
    assert any(example.fault_spans for example in examples)
    tokenizer = train_tokenizer([e.prompt + e.completion for e in examples[:300]], 400)
    found = encode_examples(examples, tokenizer, 100, "here")
    assert found.truncated > 0
    assert len(found) == len(examples)
    for example, item in zip(examples, found.items, strict=True):
        ids, fault = one_at_a_time(example, tokenizer, 100)
        assert item.input_ids.tolist() == ids
        assert item.fault.tolist() == fault
        learned = tokenizer.decode(
            item.input_ids[item.completion].tolist(), skip_special_tokens=True
        )
        assert item.num_bytes == len(learned)
        assert example.completion.startswith(learned)


def test_digest_changes_with_any_token_or_mask() -> None:
    data, other = tiny_data(), tiny_data()
    assert data.digest() == other.digest()
    other.items[3].input_ids[4] += 1
    assert data.digest() != other.digest()
    masked = tiny_data()
    masked.items[3].completion[4] = False
    assert data.digest() != masked.digest()


def test_epochs_cover_every_sample_once_each() -> None:
    order = training_order(tiny_data(16), budget(epochs=3), None, seed=5)
    assert len(order) == 48
    for start in (0, 16, 32):
        assert sorted(order[start : start + 16].tolist()) == list(range(16))
    assert order[:16].tolist() != order[16:32].tolist()


def test_order_depends_on_the_seed_alone() -> None:
    make = lambda seed: training_order(tiny_data(), budget(steps=10), 0.5, seed)  # noqa: E731
    assert make(1).tolist() == make(1).tolist()
    assert make(1).tolist() != make(2).tolist()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 0.5])
def test_every_batch_holds_the_share_of_incorrect_samples(share: float) -> None:
    data = tiny_data(20)
    order = training_order(data, budget(steps=50, global_batch=6), share, seed=0)
    wrong = np.array([data.items[i].example.reward == 0 for i in order]).reshape(50, 6)
    assert abs(wrong.sum() - share * 300) <= 1
    assert set(np.abs(wrong.sum(axis=1) - share * 6) < 1) == {True}


def test_batches_stand_by_length() -> None:
    data = tiny_data(40)
    order = training_order(data, budget(steps=5, global_batch=8), None, seed=0)
    lengths = np.array([len(data.items[i]) for i in order]).reshape(5, 8)
    assert (np.diff(lengths, axis=1) >= 0).all()


def test_a_token_budget_stops_at_the_batch_that_reaches_it() -> None:
    data = tiny_data(16)
    lengths = np.array([len(item) for item in data.items])
    order = training_order(data, budget(tokens=300), None, seed=0)
    seen = lengths[order].reshape(-1, 4).sum(axis=1).cumsum()
    assert seen[-1] >= 300
    assert seen[-2] < 300
    whole = training_order(data, budget(steps=len(order) // 4), None, seed=0)
    assert whole.tolist() == order.tolist()


def test_missing_kinds_are_errors() -> None:
    data = tiny_data(8)
    only_right = type(data)([item for item in data.items if item.example.reward == 1])
    with pytest.raises(
        DataError,
        match="no incorrect examples to draw 0.5 of .*found 0 incorrect examples, 4 correct examples",
    ):
        training_order(only_right, budget(steps=1), 0.5, 0)
    assert len(training_order(only_right, budget(steps=1), 0.0, 0)) == 4
    unknown = encode_examples([Example("t", "a", "b")], train_tokenizer(TEXTS, 300), 20, "x")
    with pytest.raises(DataError, match="need a reward for every example; 1 of 1 have none"):
        training_order(unknown, budget(steps=1), 0.5, 0)


def test_collation_by_hand() -> None:
    data = tiny_data(3)
    batch = Collate(num_heads=2, pad_token_id=0, multiple_of=8)(list(enumerate(data.items)))
    length = batch["input_ids"].shape[1]
    assert length % 8 == 0
    assert batch["labels"].shape == (3, length, 2)
    for b, item in enumerate(data.items):
        n = len(item)
        assert batch["input_ids"][b, :n].tolist() == item.input_ids.tolist()
        assert not batch["input_ids"][b, n:].any()
        assert batch["attention_mask"][b].tolist() == [1] * n + [0] * (length - n)
        assert batch["completion"][b, :n].tolist() == item.completion.tolist()
        torch.testing.assert_close(batch["ref_ce"][b, :n], torch.from_numpy(item.ref_ce))
        for t in range(length):
            for k in range(2):
                j = t + k + 1
                want = item.input_ids[j] if j < n and item.completion[j] else -100
                assert batch["labels"][b, t, k] == want
    assert batch["reward"].tolist() == [0.0, 1.0, 0.0]
    assert batch["sample_ids"].tolist() == [0, 1, 2]


def test_signals_are_left_out_where_the_data_has_none() -> None:
    batch = Collate(2, 0)(list(enumerate(tiny_data(3, ref=False).items)))
    assert "ref_ce" not in batch


def test_ordered_samples() -> None:
    data = tiny_data(4)
    samples = OrderedSamples(data, np.array([2, 0, 2]))
    assert len(samples) == 3
    assert [samples[i][0] for i in range(3)] == [2, 0, 2]
    assert samples[1][1] is data.items[0]
