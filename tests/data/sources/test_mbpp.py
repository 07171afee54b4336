"""MBPP: the authors' splits, prompts and tests, and errors that say where."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.data.example import Example
from wmtp.data.sources.mbpp import SPLITS, Mbpp
from wmtp.errors import DataError

RECORD = {
    "text": "Write a function to add two numbers.",
    "code": "def add(a, b):\r\n\treturn a + b\r\n",
    "task_id": 601,
    "test_setup_code": "",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0 "],
    "challenge_test_list": [],
}


def load(path: Path, split: str = "train") -> list[Example]:
    return list(Mbpp(Mbpp.Config(path=str(path))).examples(split))


def write(folder: Path, *records: Any) -> Path:
    path = folder / "mbpp.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_record_becomes_prompt_code_and_tests(tmp_path: Path) -> None:
    (example,) = load(write(tmp_path, RECORD))
    assert example == Example(
        task_id="mbpp/601",
        prompt='"""\nWrite a function to add two numbers.\nassert add(1, 2) == 3\n"""\n',
        completion="def add(a, b):\n\treturn a + b",
        reward=1.0,
        tests="assert add(1, 2) == 3\nassert add(0, 0) == 0\n",
        source="mbpp",
        split="train",
    )


def test_imports_and_setup_stand_before_the_asserts(tmp_path: Path) -> None:
    sanitized = {
        "prompt": "Add.",
        "code": "def add(a, b): return a + b",
        "task_id": 602,
        "test_imports": ["import math"],
        "test_list": ["assert add(1, 2) == 3"],
    }
    setup = {**RECORD, "test_setup_code": "one = 1 \r\ntwo = 2"}
    full, other = load(write(tmp_path, setup, sanitized))
    assert full.tests == ("one = 1 \ntwo = 2\nassert add(1, 2) == 3\nassert add(0, 0) == 0\n")
    assert other.tests == "import math\nassert add(1, 2) == 3\n"
    assert other.prompt == '"""\nAdd.\nassert add(1, 2) == 3\n"""\n'


def test_full_counts_are_those_of_the_authors(shared_data: Path) -> None:
    path = shared_data / "mbpp" / "mbpp.jsonl"
    found = {split: load(path, split) for split in SPLITS}
    assert {split: len(examples) for split, examples in found.items()} == {
        "train": 374, "validation": 90, "test": 500, "prompt": 10,
    }  # fmt: skip
    examples = [example for split in found.values() for example in split]
    assert len({example.task_id for example in examples}) == 974
    assert not any("\r" in e.prompt + e.completion + (e.tests or "") for e in examples)
    assert found["test"][0].task_id == "mbpp/11"
    with_setup = [e.task_id for e in examples if (e.tests or "").startswith("root = Node(1)")]
    assert sorted(with_setup) == ["mbpp/367", "mbpp/927"]


@pytest.mark.parametrize("name", ["sanitized-mbpp.json", "sanitized-mbpp.jsonl"])
def test_sanitized_counts_are_those_of_the_authors(shared_data: Path, name: str) -> None:
    path = shared_data / "mbpp" / name
    found = {split: load(path, split) for split in SPLITS}
    assert {split: len(examples) for split, examples in found.items()} == {
        "train": 120, "validation": 43, "test": 257, "prompt": 7,
    }  # fmt: skip
    examples = [example for split in found.values() for example in split]
    assert sum((e.tests or "").startswith("import math\n") for e in examples) == 13


def test_no_path_says_how_to_get_the_file() -> None:
    with pytest.raises(DataError, match=r"neither path nor hub is set\. Download mbpp\.jsonl"):
        list(Mbpp(Mbpp.Config()).examples("test"))
    with pytest.raises(DataError, match="not both"):
        list(Mbpp(Mbpp.Config(path="a", hub=True)).examples("test"))


def test_unknown_and_empty_splits_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path, RECORD)
    with pytest.raises(DataError, match=r"no split 'tests'\. Did you mean 'test'\? Known: train"):
        load(path, "tests")
    with pytest.raises(DataError, match=r"no problem of split 'test' \(task_id 11 to 510\)"):
        load(path, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_id": "601"}, r"mbpp\.jsonl:2: field 'task_id' must be a whole number, found '601'"),
        ({"task_id": True}, "field 'task_id' must be a whole number, found True"),
        ({"code": None}, "field 'code' must be a string, found None"),
        ({"test_list": []}, "the tests must be strings, with at least one assert"),
        ({"test_list": [1]}, "the tests must be strings"),
        ({"test_list": "assert f()"}, "field 'test_list' must be a list"),
        ({"test_setup_code": 3}, "field 'test_setup_code' must be a string, found 3"),
        ({"test_imports": True}, "field 'test_imports' must be a list"),
        ({"task_id": 601}, "task_id 601 appears twice"),
        ({"task_id": 975}, r"mbpp\.jsonl:2: task_id must be 1 to 974, found 975"),
        ({"text": "\ud800"}, r"mbpp/602: half of a surrogate pair \('\\ud800'\) is no text"),
    ],
)
def test_wrong_records_name_their_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, RECORD, {**RECORD, "task_id": 602, **change})
    with pytest.raises(DataError, match=message):
        load(path)


def test_a_missing_field_gets_its_near_match(tmp_path: Path) -> None:
    record = {key: value for key, value in RECORD.items() if key != "code"} | {"codes": ""}
    with pytest.raises(DataError, match=r":1: field 'code' .* found None\. Did you mean 'codes'"):
        load(write(tmp_path, record))


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"[", b"\xff", b"[" * 9_999])
def test_a_wrong_json_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sanitized.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"sanitized\.json"):
        load(path)


JSON = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text() | st.integers())


@given(st.dictionaries(st.sampled_from([*RECORD, "prompt", "test_imports"]), JSON))
def test_any_record_loads_or_is_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, change: dict[str, Any]
) -> None:
    path = write(tmp_path_factory.mktemp("mbpp"), {**RECORD, **change})
    try:
        (example,) = load(path)
    except DataError as error:
        message = str(error)
    else:
        message = "mbpp.jsonl" if example.reward == 1.0 else ""
    assert "mbpp.jsonl" in message
