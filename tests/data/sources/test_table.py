"""table: examples survive the round trip, and a bad record says where and why."""

import csv
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from wmtp.data.example import Example
from wmtp.data.sources.jsonl import read_examples, write_examples
from wmtp.data.sources.table import Table
from wmtp.errors import DataError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

GOOD = {"task_id": "t", "prompt": "p", "completion": "code"}
EXAMPLE = Example("t", "p", "code")


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "file.jsonl"
    texts = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    path.write_bytes(b"\n".join(texts) + b"\n")
    return path


def load(path: Path, split: str = "train", **settings: Any) -> list[Example]:
    return list(Table(Table.Config(path=str(path), **settings)).examples(split))


@st.composite
def examples(draw: st.DrawFn) -> Example:
    text = st.text()
    completion = draw(text)
    spans = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(4, 9)), max_size=2))
    share = st.floats(0, 1)
    return Example(
        task_id=draw(text),
        prompt=draw(text),
        completion=completion,
        reward=draw(st.none() | share),
        tests=draw(st.none() | text),
        code_prefix=draw(text),
        difficulty=draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        source=draw(text),
        split=draw(text),
        fault_spans=tuple(spans) if len(completion) >= 9 else (),
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(examples(), unique=True, max_size=4))
def test_examples_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, found: list[Example]
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "examples.jsonl"
    write_examples(path, found)
    assert list(read_examples(path)) == found
    assert path.read_bytes().isascii()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    write_examples(path, [EXAMPLE])
    with pytest.raises(ValueError, match="Out of range float"):
        write_examples(path, [EXAMPLE, replace(EXAMPLE, difficulty=float("nan"))])
    assert list(read_examples(path)) == [EXAMPLE]
    assert [entry.name for entry in tmp_path.iterdir()] == ["examples.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"task_id": "\xff"}', "not valid JSON"),
        (b'{"task_id": "t", "task_id": "u"}', "the key 'task_id' is given twice"),
        (b"[" * 100_000, "not valid JSON (nested too deeply)"),
        (
            {**GOOD, "prompt": "\ud800"},
            "half of a surrogate pair ('\\ud800') is no text. Remove it.",
        ),
        ({**GOOD, "promt": "x"}, "unknown column 'promt'. Did you mean 'prompt'?"),
        ({"task_id": "t", "prompt": "p"}, "no column 'completion' for the field 'completion'."),
        ({**GOOD, "reward": 2}, "reward 2.0 is outside 0 to 1"),
        ({**GOOD, "reward": "one"}, "field 'reward': Input should be a valid number, found 'one'"),
        ({**GOOD, "reward": "nan"}, "field 'reward': Input should be a valid number, found 'nan'"),
        ({**GOOD, "difficulty": True}, "field 'difficulty': Input should be a valid number"),
        ({**GOOD, "task_id": 1.5}, "field 'task_id': Input should be a valid string, found 1.5."),
        ({**GOOD, "task_id": None}, "field 'task_id': Input should be a valid string, found None"),
        ({**GOOD, "completion": 3}, "field 'completion': Input should be a valid string, found 3."),
        ({**GOOD, "fault_spans": [[0, 99]]}, "fault span (0, 99) lies outside"),
        ({**GOOD, "fault_spans": [[0]]}, "field 'fault_spans.0.1': Field required"),
        ({**GOOD, "fault_spans": 3}, "field 'fault_spans': Input should be a valid array"),
        (
            json.dumps(GOOD)[:-1].encode() + b', "tests": %s}' % (b"[" * 500 + b"]" * 500),
            "too deep",
        ),
        ({**GOOD, "prompt": ["x" * 9999]}, "found ['xxxxxxxxxxxx...xxxxxxxxxxxxx']."),
        (GOOD, "file.jsonl:1. Remove one of the two."),
    ],
)
def test_a_bad_line_says_where_and_why(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path, GOOD, b"", line)
    with pytest.raises(DataError) as caught:
        load(path, validation_share=0)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)


def test_columns_are_mapped_and_others_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "t", "question": "p", "completion": "c", "url": "u", "fold": "a"})
    columns = {"task_id": "id", "prompt": "question", "split": "fold"}
    assert load(path, "a", columns=columns) == [Example("t", "p", "c", split="a")]
    with pytest.raises(ValidationError, match=r"no field 'promt'\. Did you mean 'prompt'\?"):
        load(path, columns={"promt": "question"})
    with pytest.raises(DataError, match=r":1: no column 'folds' .* Did you mean 'fold'\? Columns:"):
        load(path, columns={**columns, "split": "folds"})


def test_the_split_column_decides_where_it_is_there(tmp_path: Path) -> None:
    lines = [{**GOOD, "completion": str(i), "split": "ab"[i % 2]} for i in range(4)]
    path = write(tmp_path, *lines)
    assert [e.completion for e in load(path, "b")] == ["1", "3"]
    with pytest.raises(
        DataError, match=r"no example in split 'test'\. Splits that are there: a, b\."
    ):
        load(path, "test")


def test_without_it_the_hash_of_the_task_decides(tmp_path: Path) -> None:
    lines = [
        {"task_id": f"t{i}", "prompt": "", "completion": str(c)} for i in range(200) for c in (0, 1)
    ]
    path = write(tmp_path, *lines)
    train, validation = (load(path, s, validation_share=0.2) for s in ("train", "validation"))
    assert len(train) + len(validation) == 400
    assert 50 < len(validation) < 110
    assert not {e.task_id for e in train} & {e.task_id for e in validation}
    assert {e.split for e in validation} == {"validation"}


def test_missing_and_empty_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl: no such file"):
        load(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match=r"no examples\. The file is empty\. Write one record per"):
        load(write(tmp_path, b""))


def test_a_csv_file_becomes_examples(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text(
        "task_id,prompt,completion,reward,difficulty,tests\n"
        'a,p,"x, y",TRUE,2, \nb,p,z,0.25,,assert f()\nc,p,u,,1e1,\nd,p,v,0,3,\n'
    )
    first, second, third, fourth = load(path, validation_share=0)
    assert first == Example("a", "p", "x, y", reward=1.0, difficulty=2.0)
    write_examples(tmp_path / "all.jsonl", [replace(second, split="train")])
    record = json.loads((tmp_path / "all.jsonl").read_text()) | {"time_limit_seconds": 2.5}
    with (tmp_path / "all.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, record)
        writer.writeheader()  # what CSV has no text for is left empty
        writer.writerow(record | {"fault_spans": "", "io_tests": "", "split": ""})
    (complete,) = load(tmp_path / "all.csv", validation_share=0)
    assert complete == replace(second, time_limit_seconds=2.5)
    assert second == Example("b", "p", "z", reward=0.25, tests="assert f()")
    assert third == Example("c", "p", "u", difficulty=10.0)
    assert fourth.reward == 0.0


def test_a_parquet_file_becomes_examples(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"task_id": 7, "prompt": "p", "completion": "ab", "reward": False, "split": "train"},
        {"task_id": 8, "prompt": "p", "completion": "ab", "reward": None, "split": None},
    ]
    rows[0]["fault_spans"] = [[0, 1]]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    first, second = load(tmp_path / "a.parquet", validation_share=0)
    assert first == Example("7", "p", "ab", reward=0.0, fault_spans=((0, 1),))
    assert second == Example("8", "p", "ab")
    rows[0]["prompt"] = rows[1]["prompt"] = b"p"
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1: Object of type bytes is not JSON serializable"):
        load(tmp_path / "a.parquet")


def test_a_hub_data_set_becomes_examples(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    rows = [{"q": f"{i}?", "a": str(i), "n": i} for i in range(3)]
    for split in ("train", "test"):
        table = pa.Table.from_pylist(rows[: len(split) - 2])
        parquet.write_table(table, tmp_path / f"{split}.parquet")
    source = Table(
        Table.Config(
            hub=str(tmp_path),
            hub_split="test",
            columns={"task_id": "n", "prompt": "q", "completion": "a"},
            constants={"reward": 1, "source": "mine"},
            validation_share=0,
        )
    )
    expected = [Example(str(i), f"{i}?", str(i), reward=1.0, source="mine") for i in range(2)]
    assert list(source.examples("train")) == expected


def test_bad_records_and_repeated_ones_are_skipped_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, b"{", GOOD, {**GOOD, "reward": 9}, {**GOOD, "completion": "2"})
    given = {"path": str(path), "validation_share": 0, "on_bad_record": "skip"}
    source = Table(Table.Config(**given, duplicates="skip"))
    assert [example.completion for example in source.examples("train")] == ["code", "2"]
    bad, repeated = source.notices
    assert bad.startswith(f"bad records skipped: 2; the first: {path}:2: not valid JSON (")
    assert repeated.startswith(
        f"repeated examples skipped: 1; the first: {path}:3: repeats {path}:1"
    )
    kept = Table(Table.Config(**given, duplicates="keep"))
    assert [example.completion for example in kept.examples("train")] == ["code", "code", "2"]
    by_id = Table(Table.Config(**given, duplicates="skip", unique_ids=True))
    assert len(list(by_id.examples("train"))) == 1
    first = next(iter(source.examples("train")))  # notices also when the rest is not wanted
    assert first == EXAMPLE
    with pytest.raises(DataError, match=r"no examples\. bad records skipped: 1; the first: "):
        list(Table(Table.Config(**{**given, "path": str(write(tmp_path, b"["))})).examples("train"))


def test_all_splits_come_in_the_order_of_the_records_and_no_example_is_kept(tmp_path: Path) -> None:
    number, size = 2000, 2000
    lines = [
        {**GOOD, "task_id": f"t{i}", "completion": "x" * size, "split": "ab"[i % 2]}
        for i in range(number)
    ]
    path = write(tmp_path, *lines)
    readers = (
        lambda: Table(Table.Config(path=str(path))).all_examples(),
        lambda: read_examples(path),
    )
    for reader in readers:
        tracemalloc.start()
        read = 0
        for i, example in enumerate(reader()):
            assert (example.task_id, example.split) == (f"t{i}", "ab"[i % 2])
            read += 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert read == number
        assert peak < 400_000 + 200 * number  # of 4 MB of text


def test_nothing_left_says_what_was_left_out(tmp_path: Path) -> None:
    for content, why in (
        (b"", "The file is empty."),
        (b"{", "bad records skipped: 1; the first: "),
    ):
        source = Table(Table.Config(path=str(write(tmp_path, content)), on_bad_record="skip"))
        with pytest.raises(DataError, match=rf"file\.jsonl: no examples\. {why}"):
            list(source.all_examples())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give exactly one of path and hub"),
        ({"path": "a", "hub": "b"}, "give exactly one of path and hub"),
        ({"path": "a", "hub_split": "train"}, "hub_config and hub_split belong to hub"),
        ({"path": "a", "constants": {"rewards": 1}}, "no field 'rewards'. Did you mean 'reward'?"),
        (
            {"path": "a", "columns": {"reward": "r"}, "constants": {"reward": 1}},
            "in columns and in constants: reward",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_errors(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Table.Config(**given)
    assert message in str(caught.value)


@settings(max_examples=80, deadline=None)
@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from([*Example.__dataclass_fields__, "other"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
            lambda inner: st.lists(inner, max_size=3),
        ),
    ).map(lambda record: json.dumps({**GOOD, **record}).encode())
)
def test_any_line_loads_or_is_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, line: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("jsonl"), line)
    try:
        list(read_examples(path))
    except DataError as error:
        message = str(error)
    else:
        message = str(path)
    assert message.startswith(str(path))
