"""Values that are computed once, in parts, by however many processes, and checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wmtp.data import reference_cache
from wmtp.data.reference_cache import CachedValues
from wmtp.errors import OutputError

FACTS = {"reference": "r", "data": "d", "tokenizer": "t"}
ENDS = np.cumsum([3, 1, 4, 1, 5, 9, 2, 6])
VALUES = np.linspace(0, 12, 31).astype(np.float16)

# Notes the samples it computes; `pause` makes all parts but the first slow.
SCRIPT = """
import sys, time
from pathlib import Path
from tests.data import test_reference_cache as t
folder, log, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def compute(first, last):
    with log.open("a") as file:
        file.write(f"{first} {last}\\n")
    time.sleep(pause if first else 0)
    return t.computed(first, last)
assert (t.CachedValues(folder, t.FACTS).get(t.ENDS, compute) == t.VALUES).all()
"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_cache, "PART_VALUES", 8)


def computed(first: int, last: int) -> np.ndarray:
    starts = [0, *ENDS]
    return VALUES[starts[first] : starts[last]]


def never(first: int, last: int) -> np.ndarray:
    raise AssertionError(f"{first} to {last} were computed again")


def start(folder: Path, log: Path, pause: float) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
    }
    script = "from wmtp.data import reference_cache as r; r.PART_VALUES = 8\n" + SCRIPT
    command = [sys.executable, "-c", script, str(folder), str(log), str(pause)]
    return subprocess.Popen(command, env=environment)


def test_values_are_computed_once_and_read_from_the_file(tmp_path: Path) -> None:
    asked = []
    kept = CachedValues(tmp_path, FACTS)
    found = kept.get(ENDS, lambda a, b: asked.append((a, b)) or computed(a, b))
    assert found.dtype == np.float16
    assert np.array_equal(found, VALUES)
    assert [a for a, _ in asked] == [0, *[b for _, b in asked[:-1]]]
    assert asked[-1][1] == len(ENDS)
    assert len(asked) > 2
    again = CachedValues(tmp_path, FACTS).get(ENDS, never)
    assert np.array_equal(again, VALUES)
    assert sorted(f.name for f in tmp_path.iterdir()) == [".lock", kept.file.name]
    mapped = again
    while mapped.base is not None and not isinstance(mapped, np.memmap):
        mapped = mapped.base
    assert isinstance(mapped, np.memmap)
    again[0] = 9  # in memory alone
    assert np.array_equal(CachedValues(tmp_path, FACTS).get(ENDS, never), VALUES)


def test_a_sample_longer_than_a_part_is_one_part(tmp_path: Path) -> None:
    values = np.arange(30, dtype=np.float16)
    found = CachedValues(tmp_path, FACTS).get(
        np.array([25, 30]), lambda a, b: values[[0, 25][a] : [25, 30][b - 1]]
    )
    assert np.array_equal(found, values)


def test_each_fact_decides_the_key(tmp_path: Path) -> None:
    files = {CachedValues(tmp_path, {**FACTS, name: "x"}).file for name in FACTS}
    assert len(files | {CachedValues(tmp_path, FACTS).file}) == 4


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    kept = CachedValues(tmp_path, FACTS)
    kept.get(ENDS, computed)
    whole = kept.file.read_bytes()
    reasons = set()
    for place in [*range(0, len(whole) - 62, 7), len(whole) - 62, len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        kept.file.unlink()  # not in place: earlier readers have it mapped
        kept.file.write_bytes(damaged)
        said: list[str] = []
        assert np.array_equal(kept.get(ENDS, computed, said.append), VALUES)
        assert len(said) <= 1
        if place >= len(whole) - 2 * len(VALUES):
            assert "is damaged: its values are not those of its checksum" in said[0]
        reasons |= {text.split(": ", 1)[1].split(" (")[0] for text in said}
    assert any("truncated or damaged" in text for text in reasons)
    assert any("belongs to another reference" in text for text in reasons)


@pytest.mark.parametrize("length", [0, 7, 40, -1])
def test_a_truncated_file_is_built_again(tmp_path: Path, length: int) -> None:
    kept = CachedValues(tmp_path, FACTS)
    kept.get(ENDS, computed)
    kept.file.write_bytes(kept.file.read_bytes()[:length])
    said: list[str] = []
    assert np.array_equal(kept.get(ENDS, computed, said.append), VALUES)
    assert "is truncated or damaged" in said[0]
    assert np.array_equal(kept.get(ENDS, never), VALUES)


def test_a_file_of_another_reference_is_refused_with_the_reason(tmp_path: Path) -> None:
    foreign = CachedValues(tmp_path, {**FACTS, "reference": "x", "data": "y"})
    foreign.get(ENDS, lambda a, b: 0 * computed(a, b))
    kept = CachedValues(tmp_path, FACTS)
    shutil.copy(foreign.file, kept.file)
    said: list[str] = []
    assert np.array_equal(kept.get(ENDS, computed, said.append), VALUES)
    assert said == [f"{kept.file}: belongs to another reference and data. It is built anew."]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [("F32", VALUES.astype("<f4")), ("I16", np.arange(31, dtype="<i2")), ("F16", VALUES[:30])],
)
def test_whole_files_that_hold_something_else_are_refused(
    tmp_path: Path, dtype: str, values: np.ndarray
) -> None:
    """Whose facts and checksum are right all the same: another program's, say."""
    kept = CachedValues(tmp_path, FACTS)
    kept.get(ENDS, computed)
    whole = kept.file.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    header["__metadata__"]["sha256"] = hashlib.sha256(values.tobytes()).hexdigest()
    layout = {"dtype": dtype, "shape": [len(values)], "data_offsets": [0, values.nbytes]}
    text = json.dumps({**header, "ref_ce": layout}).encode()
    kept.file.unlink()
    kept.file.write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes())
    said: list[str] = []
    assert np.array_equal(kept.get(ENDS, computed, said.append), VALUES)
    assert said == [f"{kept.file}: does not hold 31 numbers in float16. It is built anew."]


def test_a_file_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(reference_cache, "FORMAT", "0")
        old = CachedValues(tmp_path, FACTS)
        old.get(ENDS, lambda a, b: 0 * computed(a, b))
    kept = CachedValues(tmp_path, FACTS)
    assert kept.file != old.file
    shutil.copy(old.file, kept.file)
    said: list[str] = []
    assert np.array_equal(kept.get(ENDS, computed, said.append), VALUES)
    assert said == [f"{kept.file}: belongs to another format. It is built anew."]


def test_what_a_killed_merge_left_goes(tmp_path: Path) -> None:
    kept = CachedValues(tmp_path, FACTS)
    (tmp_path / f".{kept.file.name}.0123456789ab.partial").write_text("the half of it")
    foreign = tmp_path / f".{CachedValues(tmp_path, {}).file.name}.0123456789ab.partial"
    foreign.write_text("another's, who may be at it")
    kept.get(ENDS, computed)
    assert sorted(tmp_path.glob(".*.partial")) == [foreign]


def test_folders_in_the_way_are_one_message(tmp_path: Path) -> None:
    kept = CachedValues(tmp_path, FACTS)
    for path in (kept.file, kept.parts / "000000.safetensors"):
        path.mkdir(parents=True)
        with pytest.raises(OutputError, match="cannot be written, it is a folder. Remove it"):
            kept.get(ENDS, computed)
        path.rmdir()
    assert np.array_equal(kept.get(ENDS, computed), VALUES)


@pytest.mark.parametrize("option", ["size=8k", "ro"])
def test_a_full_or_read_only_disk_is_one_message_and_what_was_done_is_kept(
    tmp_path: Path, option: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)]).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)
        reason = "read-only" if option == "ro" else "the disk is full"
        with pytest.raises(OutputError, match=reason):
            CachedValues(disk, FACTS).get(ENDS, computed)
        subprocess.run(["mount", "-o", "remount,rw,size=64k", str(disk)], check=True)
        done = len(list(disk.glob("*.parts/*.safetensors")))
        assert done == (0 if option == "ro" else 2)
        asked: list[int] = []
        found = CachedValues(disk, FACTS).get(ENDS, lambda a, b: asked.append(a) or computed(a, b))
        assert np.array_equal(found, VALUES)
        assert (0 in asked) == (option == "ro")
        if option == "ro":  # a whole file is read where nothing can be written
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            assert np.array_equal(CachedValues(disk, FACTS).get(ENDS, never), VALUES)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)  # some is mapped still


def test_a_damaged_part_is_computed_again(tmp_path: Path) -> None:
    kept = CachedValues(tmp_path, FACTS)

    def fails_at_the_last(first: int, last: int) -> np.ndarray:
        if last == len(ENDS):
            raise KeyboardInterrupt
        return computed(first, last)

    with pytest.raises(KeyboardInterrupt):
        kept.get(ENDS, fails_at_the_last)
    parts = sorted(kept.parts.iterdir())
    assert len(parts) >= 2
    damaged = bytearray(parts[0].read_bytes())
    damaged[-1] ^= 1
    parts[0].write_bytes(damaged)
    asked: list[int] = []
    said: list[str] = []
    found = kept.get(ENDS, lambda a, b: asked.append(a) or computed(a, b), said.append)
    assert np.array_equal(found, VALUES)
    assert len(asked) == 2
    assert asked[-1] == 0
    assert f"{parts[0]}: is damaged" in said[0]


def test_a_folder_that_takes_no_files_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of its path is a file"):
        CachedValues(tmp_path / "file" / "cache", FACTS).get(ENDS, computed)


def test_a_killed_build_goes_on_and_processes_share_the_work(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache", tmp_path / "log"
    killed = start(folder, log, pause=3600)
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = log.read_text().splitlines()
    others = [start(folder, log, pause=0.1) for _ in range(2)]
    assert [other.wait(timeout=120) for other in others] == [0, 0]
    after = log.read_text().splitlines()[len(before) :]
    assert before[0] not in after  # was finished
    assert before[-1] in after  # was not
    assert len(set(after)) == len(after)
    everything = sorted(set(before + after), key=lambda line: int(line.split()[0]))
    assert everything[-1].split()[1] == str(len(ENDS))
    assert sorted(f.name for f in folder.iterdir()) == [
        ".lock",
        CachedValues(folder, FACTS).file.name,
    ]
