"""Final answers: those of all published solutions, and forms that are easy to get wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.data.answers import boxed_answer, marked_answer, plain_number


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("2+2\n#### 4", "4"),
        ("#### 1,234,567", "1234567"),
        ("#### $-70,000.50", "$-70,000.50"),
        ("#### -$70,000.50", "-70000.5"),
        ("#### 5 \n#### 6.0\n", "6"),
        ("####\u00a07", "7"),
        ("#### two", "two"),
        ("#### 1,23", "1,23"),
        ("no mark 4", None),
        ("####  ", None),
    ],
)
def test_marked_answers(solution: str, answer: str | None) -> None:
    assert marked_answer(solution) == answer


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"so $\boxed{\frac{14}{3}}$.", r"\frac{14}{3}"),
        (r"$\boxed{1}$, no, $\boxed{ 2 }$", "2"),
        (r"$\boxed 9$", "9"),
        (r"$\boxed\pi$", r"\pi"),
        (r"\fbox{3}", "3"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{4} and \boxed{5", "4"),
        (r"\boxed", None),
        (r"\boxedx{3}", None),
        ("14", None),
    ],
)
def test_boxed_answers(solution: str, answer: str | None) -> None:
    assert boxed_answer(solution) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("007", "7"),
        ("+3.", "3"),
        ("-0.0", "0"),
        (".50", "0.5"),
        ("50%", "50"),
        ("12,34", None),
        ("1234,567", None),
        ("1e3", None),
        ("", None),
        ("$", None),
        ("1/2", None),
    ],
)
def test_plain_numbers(text: str, number: str | None) -> None:
    assert plain_number(text) == number


@given(st.integers(-(10**12), 10**12))
def test_separators_of_thousands_change_nothing(number: int) -> None:
    assert plain_number(f"{number:,}") == plain_number(f"{number}.00") == str(number)


@given(st.text(alphabet="\\boxed{} #1,$.", max_size=40))
def test_any_text_has_an_answer_or_none(text: str) -> None:
    for found in (boxed_answer(text), marked_answer(text)):
        assert found is None or found in text or plain_number(found) == found


def test_all_answers_of_gsm8k_are_whole_numbers(shared_data: Path) -> None:
    lines = (shared_data / "gsm8k" / "train.jsonl").read_text().splitlines()
    lines += (shared_data / "gsm8k" / "test.jsonl").read_text().splitlines()
    answers = [marked_answer(json.loads(line)["answer"]) for line in lines]
    assert len(answers) == 7473 + 1319
    assert all(answer and answer.lstrip("-").isdecimal() for answer in answers)


def test_all_boxed_answers_of_math_are_those_of_the_file(shared_data: Path) -> None:
    records = map(json.loads, (shared_data / "math500" / "test.jsonl").read_text().splitlines())
    assert all(boxed_answer(record["solution"]) == record["answer"] for record in records)
