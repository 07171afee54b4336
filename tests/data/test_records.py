"""Every kind of file gives its records with their places, or one error that names the place."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp import inputs
from wmtp.data import json_list, records
from wmtp.data.records import read_records
from wmtp.errors import DataError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
ROWS = [{"id": 1, "text": 'a,"b"\nc'}, {"id": 2, "text": "é"}]
CSV = 'id,text\n1,"a,""b""\nc"\n2,é\n'.encode()
JSONL = b"\n".join(json.dumps(row).encode() for row in ROWS)


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def write_parquet(folder: Path, rows: list[dict[str, Any]], name: str = "a.parquet") -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), folder / name)
    return folder / name


def read(path: Path | str, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    return list(read_records(str(path), None, **options))


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.jsonl", b"\xef\xbb\xbf" + JSONL, [":1", ":2"]),
        ("a.NDJSON", JSONL.replace(b"\n", b"\r\n\r\n"), [":1", ":3"]),
        ("a.json", json.dumps(ROWS, indent=2).encode(), [" record 1", " record 2"]),
        ("a.csv", b"\xef\xbb\xbf" + CSV, [":2", ":4"]),
    ],
)
def test_each_kind_gives_records_and_places(
    tmp_path: Path, name: str, content: bytes, places: list[str], gz: str
) -> None:
    path = write(tmp_path, name + gz, content)
    rows = [{k: str(v) for k, v in row.items()} for row in ROWS] if "csv" in name else ROWS
    assert read(path) == [(f"{path}{p}", row) for p, row in zip(places, rows, strict=True)]


def test_parquet_comes_in_batches_with_all_its_types(tmp_path: Path) -> None:
    rows = [{"id": i, "nested": {"list": [i, None], "text": str(i)}} for i in range(700)]
    path = write_parquet(tmp_path, rows)
    assert read(path) == [(f"{path} row {i + 1}", row) for i, row in enumerate(rows)]


def test_a_json_list_is_read_element_by_element(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_list, "_CHUNK", 3)  # every cut there is
    rows = [{"a": [1.5e3, {"b": "]},é"}]}, {}, {"c": None, "d": -12}]
    for text in (json.dumps(rows, ensure_ascii=False), json.dumps(rows, indent=1), "[]", " [ ] "):
        path = write(tmp_path, "a.json", text.encode())
        assert [record for _, record in read(path)] == json.loads(text)


def test_memory_holds_no_whole_file(tmp_path: Path) -> None:
    row = json.dumps({"text": "x" * 1000})
    size = 8_000_000
    for name, text in (
        ("a.jsonl", f"{row}\n" * (size // 1000)),
        ("a.json", f"[{','.join([row] * (size // 1000))}]"),
        ("a.csv", "text\n" + f"{'x' * 1000}\n" * (size // 1000)),
    ):
        path = write(tmp_path, name, text.encode())
        tracemalloc.start()
        assert sum(1 for _ in read_records(str(path), None)) == size // 1000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < size / 8, name


def test_a_folder_and_a_glob_give_their_files_by_name(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "c.txt", ".d.jsonl"):
        write(tmp_path, name, b"id\n1\n" if name == "a.csv" else b'{"id": 2}\n')
    (tmp_path / "folder.json").mkdir()
    a, b = ((f"{tmp_path}/a.csv:2", {"id": "1"}), (f"{tmp_path}/b.jsonl:1", {"id": 2}))
    assert read(tmp_path) == [(f"{tmp_path}/.d.jsonl:1", {"id": 2}), a, b]
    assert read(f"{tmp_path}/[ab]*") == [a, b]
    with pytest.raises(DataError, match=r"c\.txt: unknown kind of file\. Files that can be read"):
        read(f"{tmp_path}/*")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{', ":2: not valid JSON (Expecting property name"),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a" 1}\n',
            ":2: not valid JSON (Expecting ':' delimiter at character 6)",
        ),
        (
            "a.jsonl",
            b'{"a": "\xff"}',
            ":1: not valid JSON (not UTF-8: invalid start byte at byte 8)",
        ),
        ("a.jsonl", b"[1]", ":1: expected a JSON object, found list."),
        ("a.jsonl", b'{"a": 1, "a": 2}', ":1: not valid JSON (the key 'a' is given twice)"),
        ("a.jsonl", b'{"a": NaN}', ":1: not valid JSON (NaN is no finite number)"),
        ("a.jsonl", b'{"a": -1e999}', ":1: not valid JSON (-1e999 is no finite number)"),
        ("a.jsonl", b"[" * 99_999, ":1: not valid JSON (nested too deeply)"),
        ("a.jsonl", b'{"a": "%s"}' % (b"x" * 5000), ":1: the line is longer than"),
        ("a.json", b"", ": not a valid JSON list (expected a list of objects."),
        ("a.json", b'{"a": 1}', ": not a valid JSON list (expected a list of objects."),
        ("a.json", b'[{"a": 1}, 2]', " record 2: expected a JSON object, found int."),
        ("a.json", b'[{"a": 1} {', " record 1: not a valid JSON list (expected a comma or"),
        ("a.json", b'[{"a": 1},]', " record 1: not a valid JSON list (a comma before the end"),
        ("a.json", b'[{"a": 1}', " record 1: not a valid JSON list (expected a comma or the end"),
        ("a.json", b'[{"a": 1', " record 1: not a valid JSON list (Expecting ',' delimiter)"),
        ("a.json", b'[{"a": Infinity}]', " record 1: not a valid JSON list (Infinity is no"),
        ("a.json", b"[] []", ": not a valid JSON list (more text after the list)"),
        ("a.json", b'[{"a": "%s"}]' % (b"x" * 5000), " record 1: not a valid JSON list (longer"),
        ("a.json", b'["\xff"]', ": not a valid JSON list (not UTF-8: invalid start byte)"),
        ("a.csv", b"a,b\n1\n", ":2: the row has 1 fields, the header 2."),
        ("a.csv", b"a,a\n1,2\n", ":1: the column 'a' is there twice."),
        ("a.csv", b'a\n"1', ":2: not valid CSV (unexpected end of data)"),
        ("a.csv", b'a\n"1"2\n', ":2: not valid CSV (',' expected after '\"')"),
        ("a.csv", b"a\n\xff\n", ":2: not UTF-8: invalid start byte at byte 1. Save"),
        ("a.parquet", b"PAR1", " row 1: damaged, or not Parquet ("),
        ("a.parquet.gz", b"", ": unknown kind of file."),
        ("a.jsonlines", b"", ": unknown kind of file. Did you mean '.jsonl'?"),
    ],
)
def test_a_bad_record_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    for module in (inputs, records, json_list):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 200_000 if b"[[" in content else 4000)
    monkeypatch.setattr(json_list, "_CHUNK", 100)
    path = write(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a\.jsonl: a pipe or device, no file\. Write its content"):
        read(tmp_path / "a.jsonl")


def test_nan_and_repeated_columns_of_parquet_are_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [{"a": {"b": [1.0]}}, {"a": {"b": [float("nan")]}}])
    with pytest.raises(DataError, match=r"a\.parquet row 2: field 'a' holds NaN or infinity"):
        read(path)
    assert len(read(path, allow_nan=True)) == 2
    parquet.write_table(pa.table([[1], [2]], names=["a", "a"]), path)
    with pytest.raises(DataError, match=r"a\.parquet: the column 'a' is there twice"):
        read(path)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz", "a.parquet"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    rows = [{"text": f"{i * i}"} for i in range(1000)]
    text = {
        "a.jsonl.gz": "".join(json.dumps(row) + "\n" for row in rows),
        "a.json.gz": json.dumps(rows),
        "a.csv.gz": "text\n" + "".join(f"{row['text']}\n" for row in rows),
    }
    path = tmp_path / name
    if name in text:
        write(tmp_path, name, text[name].encode())
    else:
        write_parquet(tmp_path, rows)
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        if name == "a.csv.gz" and length == 0:  # no member at all is an empty file to gzip
            continue
        if name == "a.jsonl.gz" and length == 0:
            continue
        with pytest.raises(DataError, match=name):
            read(path)


def test_bad_records_can_be_left_out(tmp_path: Path) -> None:
    found: list[DataError] = []
    lines = write(tmp_path, "a.jsonl", b'{"a": 1}\n{\n[]\n{"a": 2}\n')
    assert [r["a"] for _, r in read(lines, on_bad=found.append)] == [1, 2]
    rows = write(tmp_path, "a.csv", b"a\n1\n2,3\n4\n")
    assert [r["a"] for _, r in read(rows, on_bad=found.append)] == ["1", "4"]
    listed = write(tmp_path, "a.json", b'[{"a": 1}, 7, {"a": 2}]')
    assert [r["a"] for _, r in read(listed, on_bad=found.append)] == [1, 2]
    numbers = write_parquet(tmp_path, [{"a": float("inf")}, {"a": 1.0}])
    assert [r["a"] for _, r in read(numbers, on_bad=found.append)] == [1.0]
    places = [str(error).partition(": ")[0].removeprefix(f"{tmp_path}/a") for error in found]
    assert places == [".jsonl:2", ".jsonl:3", ".csv:3", ".json record 2", ".parquet row 1"]


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    for name in ("gone.jsonl", "gone/*.csv", "\0.csv"):
        with pytest.raises(DataError, match=r"no such file\. Ask for it\."):
            list(read_records(f"{tmp_path}/{name}", None, how="Ask for it."))
    with pytest.raises(DataError, match=r"no data file in this folder\. Check the path\."):
        read(tmp_path)
    with pytest.raises(DataError, match=r"neither path nor hub is set\. Ask for it\."):
        list(read_records(None, None, how="Ask for it."))
    with pytest.raises(DataError, match="give path or hub, not both"):
        list(read_records("a", "b"))


def test_a_hub_data_set_is_streamed_by_splits(tmp_path: Path) -> None:
    # A folder is to `datasets` what an id on the hub is.
    pytest.importorskip("datasets")
    (tmp_path / "hub").mkdir()
    for split, rows in (("train", ROWS), ("test", ROWS[:1])):
        write_parquet(tmp_path / "hub", rows, f"{split}-00000-of-00001.parquet")
    hub = str(tmp_path / "hub")
    train = [(f"{hub} split train row {i + 1}", row) for i, row in enumerate(ROWS)]
    test = [(f"{hub} split test row 1", ROWS[0])]
    assert list(read_records(None, hub, split="train")) == train
    assert sorted(read_records(None, hub)) == sorted(train + test)
    with pytest.raises(DataError, match=r"hub: cannot be loaded from the hub \(Bad split: dev"):
        list(read_records(None, hub, split="dev"))
    with pytest.raises(DataError, match=r"nobody/nothing: cannot be loaded .*\. Ask for it\."):
        list(read_records(None, "nobody/nothing", how="Ask for it."))


def whole_files() -> dict[str, bytes]:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(ROWS), sink)
    plain = {".jsonl": JSONL, ".json": json.dumps(ROWS).encode(), ".csv": CSV}
    zipped = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in plain.items()}
    return {**plain, **zipped, ".parquet": sink.getvalue().to_pybytes()}


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a kind of file and bytes: any at all, or those of a good file with some changed."""
    name, content = draw(st.sampled_from(sorted(whole_files().items())))
    if draw(st.booleans()):
        noise = draw(st.binary(max_size=80))
        return name, gzip.compress(noise) if name.endswith(".gz") else noise
    changed = bytearray(content[: draw(st.integers(0, len(content)))])
    for _ in range(draw(st.integers(0, 3))):
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return name, bytes(changed)


@settings(max_examples=150, deadline=None)
@given(damaged_files())
def test_any_bytes_give_records_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[str, bytes]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"a{file[0]}"
    path.write_bytes(file[1])
    try:
        found = read(path)
    except DataError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
    else:
        assert all(isinstance(record, dict) for _, record in found)
