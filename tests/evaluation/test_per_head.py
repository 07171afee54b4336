"""What each head predicts, by class, place and difficulty of the token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import tiny_data, tiny_model
from wmtp.data.collate import Collate
from wmtp.data.token_classes import TOKEN_CLASSES, token_classes
from wmtp.evaluation.per_head import Targets, measure_targets, per_head, target_ranks


def named(prompt: str, completion: str, pieces: list[str]) -> list[str]:
    assert "".join(pieces) == completion
    ends = np.cumsum([len(piece) for piece in pieces])
    spans = [(int(e) - len(p), int(e)) for e, p in zip(ends, pieces, strict=True)]
    return [TOKEN_CLASSES[c] for c in token_classes(prompt, completion, spans)]


def test_classes_of_tokens() -> None:
    pieces = [
        "    ",
        "return",
        " x",
        "1",
        " +",
        " 2.5",
        "  # no",
        "te\n",
        "    ",
        "x",
        " = ",
        '"a',
        ' b"',
        "\n",
    ]
    assert named("def f(x1):\n", "".join(pieces), pieces) == [
        *(
            "whitespace",
            "keyword",
            "name",
            "name",
            "operator",
            "literal",
            "whitespace",
            "whitespace",
        ),
        *("whitespace", "name", "operator", "literal", "literal", "whitespace"),
    ]


def test_strings_over_lines_and_formatted_ones() -> None:
    assert named("", 'x = """a\nb"""\n', ["x", " =", ' """a', "\nb", '"""', "\n"]) == [
        *("name", "operator", "literal", "literal", "literal", "whitespace"),
    ]
    assert named("", "f'a'\n", ["f", "'a'", "\n"]) == ["literal", "literal", "whitespace"]


def test_text_that_python_refuses_is_other() -> None:
    words = ["What is", " this?", " It's"]
    assert named("", "".join(words), words) == ["other"] * 3
    assert named("", "(1", ["(", "1"]) == ["other"] * 2
    assert named("", "a\r\rb", ["a", "\r\r", "b"]) == ["other"] * 3
    assert named("", "x\udc80 = 1\n", ["x\udc80", " =", " 1", "\n"])[2] in ("literal", "other")
    # A prompt in words does not count where the completion stands alone.
    assert named("It's a question:\n", "x = 1\n", ["x", " =", " 1", "\n"])[0] == "name"


def test_a_row_of_the_analysis_by_hand() -> None:
    targets = Targets(
        head=np.array([0, 0, 0, 0, 1]),
        position=np.array([0, 15, 16, 700, 1]),
        token_class=np.array([0, 0, 1, 5, 1]),
        rank=np.array([0, 4, 5, 0, 9]),
        ce=np.array([0.5, 1.5, 2.5, 3.5, 7.0]),
        confidence=np.array([0.9, 0.9, 0.3, 0.3, 0.2]),
        difficulty=np.array([0.5, 1.5, 2.5, 3.5, 1.5]),
    )
    found = per_head(targets, num_heads=3)
    assert found.keys() == {"head_0", "head_1"}
    # Two bins: confidence 0.9 with 1 of 2 right, 0.3 with 1 of 2.
    expected = {"n": 4, "ce": 2.0, "top1": 0.5, "top5": 0.75, "calibration_error": 0.3}
    assert found["head_0"]["all"] == pytest.approx(expected)
    assert {k: row["n"] for k, row in found["head_0"]["position"].items()} == {
        "0-15": 2,
        "16-31": 1,
        "512-": 1,
    }
    assert {k: row["n"] for k, row in found["head_0"]["token_class"].items()} == {
        "keyword": 2,
        "name": 1,
        "other": 1,
    }
    assert [row["ce"] for row in found["head_0"]["difficulty"].values()] == [0.5, 1.5, 2.5, 3.5]
    assert list(found["head_1"]["difficulty"]) == ["2"]
    assert per_head(replace(targets, ce=np.array([np.nan, 0, 0, 0, 0])), num_heads=3) == {}


@pytest.mark.parametrize("ref", [False, True])
def test_targets_of_a_model_are_those_of_its_logits(ref: bool) -> None:
    model, data = tiny_model(num_heads=3), tiny_data(5, ref=ref)
    collate = Collate(3, 0)
    classes = [np.full(int(item.completion.sum()) - 1, 1) for item in data.items]
    found = measure_targets(model, data, collate, classes, batch_size=2)
    batch = collate(list(enumerate(data.items)))
    labels = batch["labels"]
    with torch.no_grad():
        logits = model.head_logits(batch["input_ids"], batch["attention_mask"]).double()
    log_p = logits.log_softmax(-1)
    place = 0
    for b, t, k in (labels != -100).nonzero().tolist():
        row, label = log_p[b, t, k], int(labels[b, t, k])
        if b % 2 == 0 and t == 2 and k == 0:
            assert found.position[place] == 0
        assert found.head[place] == k
        assert found.ce[place] == pytest.approx(-float(row[label]), abs=1e-5)
        assert found.rank[place] == int((row > row[label]).sum())
        assert found.confidence[place] == pytest.approx(float(row.max().exp()), abs=1e-5)
        own = -float(log_p[b, t + k, 0, label])
        expected = float(batch["ref_ce"][b, t + k + 1]) if ref else own
        assert found.difficulty[place] == pytest.approx(expected, abs=1e-5)
        last = t + k + 1 == len(data.items[b]) - 1
        assert found.token_class[place] == (5 if last else 1)
        place += 1
    assert place == len(found.head)


def test_logits_come_in_chunks() -> None:
    model, data = tiny_model(num_heads=2), tiny_data(3)
    batch = Collate(2, 0)(list(enumerate(data.items)))
    given = batch["input_ids"], batch["attention_mask"], batch["labels"]
    with torch.no_grad():
        for whole, parts in zip(
            target_ranks(model, *given), target_ranks(model, *given, chunk_rows=3), strict=True
        ):
            torch.testing.assert_close(whole, parts)
