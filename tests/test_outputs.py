"""Outputs appear whole or not at all, and failures to write say what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wmtp.errors import DataError, OutputError
from wmtp.inputs import numbered_jsonl, read_json_object, read_jsonl
from wmtp.outputs import (
    append_jsonl,
    atomic_directory,
    atomic_write,
    atomic_write_json,
    atomic_write_text,
    remove_partial,
    writing,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.partial"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this system does not let root mount a tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_what_a_kill_left_is_removed_for_one_file_alone(tmp_path: Path) -> None:
    names = ("a1.txt", "a[1].txt", "x" * 100)
    left = [tmp_path / f".{name}.0123456789ab.partial" for name in names]
    for file in left:
        file.touch()
    remove_partial(tmp_path / "a[1].txt")
    remove_partial(tmp_path / ("x" * 101))  # whose name is cut in hidden ones
    assert sorted(tmp_path.iterdir()) == [left[0], left[2]]


def test_text_and_json_replace_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "a.json"
    atomic_write_text(file, "old")
    atomic_write_json(file, {"b": 1, "a": "größer"})
    assert file.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "größer"\n}\n'
    assert leftovers(tmp_path) == []


def test_text_that_is_not_utf_8_is_written_as_escapes(tmp_path: Path) -> None:
    record = {"path": "caf\udce9 é"}
    atomic_write_json(tmp_path / "a.json", record)
    assert read_json_object(tmp_path / "a.json") == record
    with append_jsonl(tmp_path / "a.jsonl") as lines:
        lines.write(record)
    assert (tmp_path / "a.jsonl").read_text() == '{"path": "caf\\udce9 é"}\n'
    assert read_jsonl(tmp_path / "a.jsonl") == [record]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", r"not valid JSON \(Expecting value.*Restore this file, or delete it"),
        (b"\xff", r"not valid JSON"),
        (b"[" * 100_000, r"not valid JSON \(nested too deeply\)"),
        (b"[]", r"expected a JSON object, found list\. Restore this file"),
    ],
)
def test_a_file_that_holds_no_json_object_is_named(tmp_path: Path, text: bytes, words: str) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"a\.json: cannot be read \(No such file"):
        read_json_object(file)
    file.write_bytes(text)
    with pytest.raises(DataError, match=rf"a\.json: {words}"):
        read_json_object(file)


def test_files_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    plain, atomic = tmp_path / "plain", tmp_path / "atomic"
    plain.write_text("")
    atomic_write_text(atomic, "")
    assert atomic.stat().st_mode == plain.stat().st_mode


def test_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    atomic_write_json(file, [1])
    with pytest.raises(ValueError, match="JSON"):
        atomic_write_json(file, [float("nan")])
    assert file.read_text() == "[\n  1\n]\n"


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_write(file, "wb") as stream:
            stream.write(b"new")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert file.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_directory_replaces_the_old_one_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "run"

    def interrupted() -> None:
        with atomic_directory(target) as folder:
            (folder / "b").write_text("2")
            raise RuntimeError("stop")

    with atomic_directory(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not target.exists()
    with pytest.raises(RuntimeError):
        interrupted()
    assert (target / "sub" / "a").read_text() == "1"
    with atomic_directory(target) as folder:
        (folder / "b").write_text("2")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert leftovers(tmp_path) == []


def test_directory_cannot_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    words = r"run: cannot be written, .*Choose another output"
    with pytest.raises(OutputError, match=words), atomic_directory(tmp_path / "run"):
        pass
    assert (tmp_path / "run").read_text() == "mine"
    assert leftovers(tmp_path) == []


def test_a_failed_swap_brings_the_old_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run"
    with atomic_directory(target) as folder:
        (folder / "a").write_text("1")
    rename = Path.rename

    def refuse_second(self: Path, other: Path) -> Path:
        if other == target and (self / "b").exists():
            raise OSError(errno.ENOSPC, "full")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", refuse_second)
    with pytest.raises(OutputError, match="disk is full"), atomic_directory(target) as folder:
        (folder / "b").write_text("2")
    assert [path.name for path in target.iterdir()] == ["a"]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full. Free some space"),
        (errno.EDQUOT, "quota is used up. Free some space"),
        (errno.EROFS, "the file system is read-only. Choose another output folder"),
        (errno.EACCES, "permission is denied. Choose another output folder"),
        (errno.ENOTDIR, "is a file, not a folder. Choose another output folder"),
        (errno.EEXIST, "something is there already. Remove it"),
    ],
)
def test_system_errors_become_one_message(number: int, words: str) -> None:
    with pytest.raises(OutputError) as caught, writing("runs/a"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith("runs/a: cannot be written, ")
    assert words in str(caught.value)


def test_other_errors_pass_through() -> None:
    with pytest.raises(FileNotFoundError), writing("a"):
        raise FileNotFoundError(errno.ENOENT, "no such file")
    with pytest.raises(DataError, match="database or disk is full"), writing("a"):
        raise DataError("database or disk is full")


@pytest.mark.parametrize(
    "message", ["I/O error: No space left on device (os error 28)", "database or disk is full"]
)
def test_full_disks_that_libraries_report_in_words(message: str) -> None:
    with pytest.raises(OutputError, match="the disk is full"), writing("a"):
        raise RuntimeError(message)


@as_root
def test_a_full_disk_leaves_nothing_half_written(small_disk: Path) -> None:
    file = small_disk / "a.txt"
    atomic_write_text(file, "old")
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written, the disk is full"):
        atomic_write_text(file, "x" * 1_000_000)
    full = pytest.raises(OutputError, match="the disk is full")
    with full, atomic_directory(small_disk / "run") as folder:
        (folder / "big").write_bytes(bytes(1_000_000))
    assert [path.name for path in small_disk.iterdir()] == ["a.txt"]
    assert file.read_text() == "old"


@as_root
def test_lines_before_the_disk_was_full_stay_whole(small_disk: Path) -> None:
    file = small_disk / "lines.jsonl"
    with append_jsonl(file) as lines:
        lines.write({"text": "x" * 10_000})
        with pytest.raises(OutputError, match="the disk is full"):
            lines.write({"text": "x" * 1_000_000})
        lines.write({"text": "short"})
    assert [len(record["text"]) for record in read_jsonl(file)] == [10_000, 5]


@as_root
def test_torch_and_safetensors_on_a_full_disk(small_disk: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    big = torch.zeros(1_000_000)
    with pytest.raises(OutputError, match="the disk is full"), writing(small_disk / "a"):
        save_file({"a": big}, small_disk / "a")
    with pytest.raises(OutputError, match="the disk is full"), writing(small_disk / "b"):
        torch.save(big, small_disk / "b")


READ_ONLY = """
import os, sys
from wmtp.errors import OutputError
from wmtp.outputs import append_jsonl, atomic_directory, atomic_write_text
if os.geteuid() == 0:
    os.setuid(65534)
folder = lambda path: atomic_directory(path).__enter__()
for write in (lambda path: atomic_write_text(path, ""), append_jsonl, folder):
    try:
        write(os.path.join(sys.argv[1], "deep", "file"))
    except OutputError as error:
        print(error)
"""


def test_a_read_only_folder(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, locked], capture_output=True, text=True, check=True
    )
    expected = f"{locked}/deep/file: cannot be written, permission is denied. Choose another output"
    assert [line.startswith(expected) for line in done.stdout.splitlines()] == [True] * 3


def test_lines_are_there_when_write_returns(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.jsonl"
    with append_jsonl(file) as lines:
        lines.write({"step": 1, "text": "ß"})
        assert file.read_bytes() == '{"step": 1, "text": "ß"}\n'.encode()
        with pytest.raises(ValueError, match="JSON"):
            lines.write({"loss": float("inf")})
    with append_jsonl(file) as lines:
        lines.write({"step": 2})
    assert [record["step"] for record in read_jsonl(file)] == [1, 2]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", []),
        (b'{"a": 1}\n', [1]),
        (b'{"a": 1}\n{"a": 2', [1]),
        (b'{"a": 1}\n{"a": 2}', [1, 2]),
        (b'{"a', []),
        (b'{"a": 1}\n{"a": "\xc3', [1]),
    ],
)
def test_a_torn_last_line_is_repaired(tmp_path: Path, before: bytes, after: list[int]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(before)
    with append_jsonl(file) as lines:
        lines.write({"a": 9})
    assert [record["a"] for record in read_jsonl(file)] == [*after, 9]


def test_reading_numbers_lines_and_skips_blank_ones(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}\r\n')
    assert list(numbered_jsonl(file)) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{'a': 1}", r"a\.jsonl:2: not valid JSON \(.*Mend or remove this line"),
        (b"[1]", r"a\.jsonl:2: expected a JSON object, found list"),
        (b'"\xff"', r"a\.jsonl:2: not valid JSON"),
        (b"[" * 100_000, r"a\.jsonl:2: not valid JSON \(nested too deeply\)"),
        (b'{"a": {"b": 1, "b": 1}}', r"a\.jsonl:2: .* key 'b' is given twice\)\. Mend"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes, words: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(DataError, match=words):
        read_jsonl(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read \(No such file"):
        read_jsonl(tmp_path / "gone.jsonl")
