"""Values that are computed once, in parts, by however many processes, and checked when read."""

from __future__ import annotations

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
