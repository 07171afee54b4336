"""Decontamination finds planted leaks, and on real data what a plain comparison finds."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.data.decontaminate import EvaluationTexts, decontaminated, words
from wmtp.data.example import Example
from wmtp.data.sources.humaneval import HumanEval
from wmtp.data.sources.mbpp import SPLITS, Mbpp

COUNT = " ".join(f"w{i}" for i in range(20))


def example(task_id: str, prompt: str, completion: str = "") -> Example:
    return Example(task_id, prompt, completion)


def test_words_have_no_case_punctuation_or_spaces() -> None:
    assert words("def F(x_1):\n\treturn 'Äß'  # 3.5") == [
        "def",
        "f",
        "x_1",
        "return",
        "äss",
        "3",
        "5",
    ]


@pytest.mark.parametrize(
    ("trained", "leaks"),
    [
        (example("t", "other", f"a b {COUNT.upper().replace(' ', ', ')} c"), True),
        (example("t", " ".join(COUNT.split()[:13])), True),
        (example("t", " ".join(COUNT.split()[:12])), False),
        (example("t", " ".join(COUNT.split()[:6]), " ".join(COUNT.split()[6:13])), True),
        (example("t", "ADD,  two"), True),
        (example("t", "add two numbers"), False),
        (example("t", "", "add two"), False),
        (example("t", "..."), False),
    ],
)
def test_thirteen_words_in_a_row_or_the_same_prompt_are_a_leak(
    trained: Example, leaks: bool
) -> None:
    texts = EvaluationTexts([example("long", COUNT), example("short", "add two"), example("", "")])
    assert bool(texts.overlaps(trained)) is leaks


@given(st.lists(st.sampled_from("ab"), max_size=14), st.lists(st.sampled_from("ab"), max_size=14))
def test_overlaps_are_those_of_the_definition(one: list[str], other: list[str]) -> None:
    texts = EvaluationTexts([example("task", "", " ".join(one))], ngram=3)
    runs = {tuple(one[i : i + 3]) for i in range(len(one) - 2)}
    shared = any(tuple(other[i : i + 3]) in runs for i in range(len(other) - 2))
    assert bool(texts.overlaps(example("t", "", " ".join(other)))) is shared


def runs(one: Example, ngram: int) -> set[tuple[str, ...]]:
    found = words(one.prompt) + words(one.completion)
    return {tuple(found[i : i + ngram]) for i in range(len(found) - ngram + 1)}


@pytest.mark.parametrize(("ngram", "number", "first"), [(13, 1, "334"), (8, 77, "608")])
@pytest.mark.parametrize("drop", [False, True])
def test_leaks_in_real_data_are_found(
    shared_data: Path, drop: bool, ngram: int, number: int, first: str
) -> None:
    path = str(shared_data / "humaneval" / "HumanEval.jsonl")
    tasks = list(HumanEval(HumanEval.Config(path=path)).examples("test"))
    mbpp = Mbpp(Mbpp.Config(path=str(shared_data / "mbpp" / "mbpp.jsonl")))
    trained = [one for split in SPLITS for one in mbpp.examples(split)]
    tested = set().union(*(runs(task, ngram) for task in tasks))
    leaks = [one for one in trained if runs(one, ngram) & tested]
    assert len(leaks) == number
    planted = Example("planted", f"Please solve:\n{tasks[17].prompt}", tasks[17].completion)

    notices: list[str] = []
    texts = {"humaneval": EvaluationTexts(tasks, ngram)}
    found = list(decontaminated([planted, *trained], texts, drop=drop, notices=notices))
    clean = [one for one in trained if one not in leaks]
    assert found == (clean if drop else [planted, *trained])
    (line,) = notices
    assert line.startswith(f"decontamination: of 975 training examples {number + 1} overlap with ")
    assert f"{'dropped' if drop else 'kept'}: planted with HumanEval/17, " in line
    assert f", mbpp/{first} with HumanEval/" in line


def test_nothing_found_is_said_too() -> None:
    notices: list[str] = []
    texts = {"set": EvaluationTexts([example("a", COUNT)])}
    given = [example("t", "x")]
    assert list(decontaminated(given, texts, drop=True, notices=notices)) == given
    assert notices == ["decontamination: none of 1 training examples overlaps with set"]
