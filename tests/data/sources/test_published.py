"""Published data sets: counts and fields of the real files, and references that pass their tests."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp.data.answers import boxed_answer, marked_answer
from wmtp.data.example import Example
from wmtp.data.sources.humaneval import HumanEval
from wmtp.errors import DataError
from wmtp.registry import SOURCES
from wmtp.sandbox import Limits, Program, Sandbox, probe

LIMITS = Limits(cpu_seconds=300.0, wall_seconds=600.0, memory_bytes=6 << 30)
FILES = {
    "humaneval": "humaneval/HumanEval.jsonl.gz",
    "humanevalplus": "evalplus/HumanEvalPlus.jsonl.gz",
    "humanevalplus-mini": "evalplus/HumanEvalPlus-Mini.jsonl.gz",
    "mbppplus": "evalplus/MbppPlus.jsonl.gz",
}


def load(name: str, path: Path | str, split: str = "test", **settings: Any) -> list[Example]:
    source = SOURCES.get(name)
    return list(source(source.Config(path=str(path), **settings)).examples(split))


def published(name: str, folder: Path) -> list[Example]:
    return load(name.removesuffix("-mini"), folder / FILES[name])


def write(folder: Path, *records: dict[str, Any], name: str = "test.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    status = probe()
    if status.tier is None:
        pytest.skip("; ".join(status.lines))
    with Sandbox(workers=2) as sandbox:
        yield sandbox


def outcomes(sandbox: Sandbox, examples: list[Example], code: str | None = None) -> Counter[str]:
    programs = [
        Program(e.code_prefix + (code or e.completion), e.tests or "", LIMITS) for e in examples
    ]
    return Counter(verdict.outcome for _, verdict in sandbox.judge(programs))


# ---- programs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), [*zip(FILES, (164, 164, 164, 378), strict=True)])
def test_counts_are_those_of_the_authors(shared_data: Path, name: str, number: int) -> None:
    examples = published(name, shared_data)
    assert len({example.task_id for example in examples}) == len(examples) == number
    assert {(e.reward, e.split, e.source) for e in examples} == {
        (1.0, "test", name.removesuffix("-mini"))
    }
    assert all(e.tests and e.prompt and e.completion == e.completion.rstrip() for e in examples)
    if name == "humaneval":
        assert examples[0].task_id == "HumanEval/0"
        assert all(e.code_prefix == e.prompt for e in examples)
        # These hold a helper before the function asked for.
        helped = [e.task_id for e in examples if e.prompt.count("\ndef ") > 1]
        assert helped == [f"HumanEval/{i}" for i in (10, 32, 38, 50)]
    if name == "mbppplus":
        assert examples[0].task_id == "mbppplus/2"
        assert not any(e.code_prefix for e in examples)


def test_all_references_of_humaneval_pass_and_stubs_do_not(
    sandbox: Sandbox, shared_data: Path
) -> None:
    examples = published("humaneval", shared_data)
    assert outcomes(sandbox, examples) == {"passed": 164}
    assert outcomes(sandbox, examples[::20], "    return None\n") == {"failed": 9}


def test_some_references_of_the_stricter_tests_pass_and_stubs_do_not(
    sandbox: Sandbox, shared_data: Path
) -> None:
    mini = published("humanevalplus-mini", shared_data)
    quick = [*mini[::20], mini[32]]
    assert outcomes(sandbox, quick) == {"passed": len(quick)}
    assert outcomes(sandbox, quick, "    return None\n") == {"failed": len(quick)}
    mbpp = published("mbppplus", shared_data)
    # Tuples, complex numbers, infinity, the name of a builtin, and answers that are not unique.
    wanted = (2, 124, 126, 252, 259, 278, 404, 558, 580, 581, 722, 793)
    chosen = [e for e in mbpp if int(e.task_id.rpartition("/")[2]) in wanted]
    assert len(chosen) == len(wanted)
    assert outcomes(sandbox, chosen) == {"passed": len(chosen)}


def test_the_stricter_tests_are_stricter(sandbox: Sandbox, shared_data: Path) -> None:
    """Solutions of HumanEval that are wrong on inputs its own tests do not have."""
    plain = {e.task_id: e.completion for e in published("humaneval", shared_data)}
    for example in published("humanevalplus", shared_data):
        if example.task_id in ("HumanEval/76", "HumanEval/95", "HumanEval/124"):
            assert outcomes(sandbox, [example], plain[example.task_id]) == {"failed": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["humanevalplus", "mbppplus"])
def test_all_references_of_the_stricter_tests_pass(
    sandbox: Sandbox, shared_data: Path, name: str
) -> None:
    examples = published(name, shared_data)
    # Mbpp/255 returns lists of millions of tuples, more than crosses from program to tests.
    examples = [e for e in examples if e.task_id != "mbppplus/255"]
    assert outcomes(sandbox, examples) == {"passed": len(examples)}


HUB_TEST = """import numpy as np
from math import inf

def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64
    return False


def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if out != exp and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert out == exp, f"out: {out}, exp: {exp}"


"""


def test_files_with_the_fields_of_the_hub_need_no_numpy(sandbox: Sandbox, tmp_path: Path) -> None:
    human = {
        "task_id": "HumanEval/0",
        "prompt": "def half(x):\n",
        "canonical_solution": "    return x / 2\n",
        "entry_point": "half",
        "test": HUB_TEST + "def check(candidate):\n"
        "    for inp, exp in zip([[1], [3.0]], [0.5, 1.5000000001]):\n"
        "        assertion(candidate(*inp), exp, 0)\n",
    }
    mbpp = {
        "task_id": 2,
        "code": "def half(x):\r\n    return x / 2",
        "prompt": "Write a function to halve.",
        "source_file": "a",
        "test_imports": ["import math"],
        "test_list": ["assert half(1) == 0.5"],
        "test": HUB_TEST + "for inp, exp in zip([[1], [inf]], [0.5, math.inf]):\n"
        "    assertion(half(*inp), exp, 0)\n",
    }
    examples = load("humanevalplus", write(tmp_path, human))
    examples += load("mbppplus", write(tmp_path, mbpp))
    assert examples[1].prompt == '"""\nWrite a function to halve.\nassert half(1) == 0.5\n"""\n'
    assert examples[1].completion == "def half(x):\n    return x / 2"
    assert outcomes(sandbox, examples) == {"passed": 2}
    assert outcomes(sandbox, examples[:1], "    return x // 2\n") == {"failed": 1}


def test_unusable_records_are_named(tmp_path: Path) -> None:
    good = {"task_id": "a", "prompt": "", "canonical_solution": "", "test": "", "entry_point": "f"}
    plus = {**good, "base_input": [[1]], "plus_input": [], "atol": 0}
    for name, record, message in (
        ("humaneval", {**good, "test": None}, "field 'test' must be a string, found None"),
        ("humaneval", {**good, "entry_point": 1}, "field 'entry_point' must be a string"),
        ("humaneval", {**good, "entry_point": ""}, "entry_point must be the name of a function"),
        ("humaneval", good, "task_id a appears twice"),
        ("humanevalplus", {**plus, "plus_input": [1]}, "must be lists of argument lists"),
        ("humanevalplus", {**plus, "atol": "0"}, "atol a number"),
        ("mbppplus", {**plus, "task_id": "Mbpp/x"}, "Mbpp/x: not the inputs of MBPP"),
        ("mbppplus", {**plus, "task_id": "Mbpp/106"}, "Mbpp/106: not the inputs of MBPP"),
    ):
        first = good if name == "humaneval" else {**plus, "task_id": "Mbpp/1"}
        with pytest.raises(DataError, match=rf"test\.jsonl:2: .*{message}"):
            load(name, write(tmp_path, first, record))
    for name in ("humaneval", "humanevalplus", "mbppplus"):
        with pytest.raises(DataError, match=rf"{name} has no split 'train'\. Known: test\."):
            load(name, "x", "train")


def test_no_path_says_how_to_get_the_file() -> None:
    for name in ("humaneval", "humanevalplus", "mbppplus", "gsm8k", "math"):
        source = SOURCES.get(name)
        with pytest.raises(DataError, match=r"neither path nor hub is set\. Download .*github"):
            list(source(source.Config()).examples("test"))


# ---- mathematics --------------------------------------------------------------------------------


def test_gsm8k_is_split_as_its_authors_did(shared_data: Path) -> None:
    found = {s: load("gsm8k", shared_data / "gsm8k", s) for s in ("train", "validation", "test")}
    numbers = {split: len(examples) for split, examples in found.items()}
    assert numbers["train"] + numbers["validation"] == 7473
    assert numbers["test"] == 1319
    assert 300 < numbers["validation"] < 450
    examples = [example for part in found.values() for example in part]
    assert len({example.task_id for example in examples}) == 7473 + 1319
    assert found["test"][2].task_id == "gsm8k/test/2"
    assert marked_answer(found["test"][2].completion) == "70000"
    assert found["test"][2].tests is None
    assert load("gsm8k", shared_data / "gsm8k" / "test.jsonl") == found["test"]
    with pytest.raises(DataError, match=r"no file train\.jsonl, nor another that begins so"):
        load("gsm8k", shared_data / "gsm8k" / "test.jsonl", "train")


def test_math_500_has_its_levels(shared_data: Path) -> None:
    examples = load("math", shared_data / "math500")
    assert Counter(e.difficulty for e in examples) == {1: 43, 2: 90, 3: 105, 4: 128, 5: 134}
    assert examples[2].task_id == "math/test/algebra/2584.json"
    assert boxed_answer(examples[2].completion) == r"\frac{14}{3}"


def test_files_of_other_editions_are_read(tmp_path: Path) -> None:
    record = {"problem": "1?", "solution": r"\boxed1", "level": "Level 3", "type": "Algebra"}
    write(tmp_path, record, {**record, "level": "Level ?"}, name="train-00000.jsonl")
    write(tmp_path, {"question": "?", "answer": "#### 1"}, name="train_socratic.jsonl")
    first, second = load("math", tmp_path, "train", validation_share=0)
    assert (first.task_id, first.prompt, first.difficulty) == ("math/train/0", "1?\n", 3.0)
    assert second.difficulty is None
    with pytest.raises(DataError, match="no problem in split 'validation'"):
        load("math", tmp_path, "validation", validation_share=0)
    with pytest.raises(DataError, match="no file test"):
        load("math", tmp_path)


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("gsm8k", {"question": "?", "answer": "4"}, "no answer after '####'"),
        ("gsm8k", {"question": "?", "answers": "4"}, "field 'answer' .* Did you mean 'answers'"),
        ("math", {"problem": "?", "solution": "4"}, "no answer in .boxed"),
        ("math", {"problem": "?", "solution": r"\boxed4", "level": 6}, "level must be 1 to 5"),
    ],
)
def test_solutions_without_answers_are_named(
    tmp_path: Path, name: str, record: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=rf"test\.jsonl:1: .*{message}"):
        load(name, write(tmp_path, record))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
)
KEYS = (
    "task_id prompt canonical_solution test entry_point base_input plus_input atol code test_list "
    "test_imports question answer problem solution level unique_id"
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["humaneval", "humanevalplus", "mbppplus", "gsm8k", "math"]),
    st.dictionaries(st.sampled_from(KEYS.split()), JSON),
)
def test_any_record_loads_or_is_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, record: dict[str, Any]
) -> None:
    path = write(tmp_path_factory.mktemp("published"), record)
    try:
        (example,) = load(name, path)
    except DataError as error:
        assert "test.jsonl" in str(error)  # noqa: PT017
    else:
        assert example.reward == 1.0


def test_the_hub_is_asked_only_by_name() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="openai/openai_humaneval: cannot be loaded from the hub"):
        list(HumanEval(HumanEval.Config(hub=True)).examples("test"))
