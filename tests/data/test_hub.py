"""Sources that load from the hub, against a hub on this machine: no network is needed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.hub_server import hub_of
from tests.data.sources.test_codecontests import ROW
from tests.tiny import child_environment

pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

# Loads what it is told to and prints what came of it, one line for each.
CHILD = """
import json, sys
from wmtp.errors import DataError
from wmtp.registry import SOURCES
for name, split, settings in json.loads(sys.argv[1]):
    source = SOURCES.get(name)
    try:
        found = [e.to_json() for e in source(source.Config(**settings)).examples(split)]
    except DataError as error:
        found = str(error)
    print(json.dumps(found))
"""
HUMAN = {
    "task_id": "HumanEval/0",
    "prompt": "def one():\n",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
    "entry_point": "one",
}
MBPP = {
    "task_id": 601,
    "text": "Return one.",
    "code": "def one():\r\n    return 1",
    "test_list": ["assert one() == 1"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
MBPP_PLUS = {
    "task_id": 2,
    "prompt": "Return one.",
    "code": "def one(): return 1",
    "source_file": "",
    "test_imports": [],
    "test_list": ["assert one() == 1"],
    "test": "assert one() == 1",
}
CONFIGS = """---
configs:
- config_name: {0}
  data_files:
  - split: train
    path: {0}/train-*
- config_name: other
  data_files:
  - split: train
    path: other.parquet
---
"""


def file_of(*rows: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


def repository(split: str, *rows: dict[str, Any], config: str | None = None) -> dict[str, bytes]:
    """Return the files of a data set with one split, by themselves or in one of two subsets."""
    if config is None:
        return {f"data/{split}-00000-of-00001.parquet": file_of(*rows)}
    files = {"README.md": CONFIGS.format(config).encode(), "other.parquet": file_of({"x": 1})}
    return {**files, f"{config}/{split}-00000-of-00001.parquet": file_of(*rows)}


HUB = {
    "openai/openai_humaneval": repository("test", HUMAN),
    "evalplus/humanevalplus": repository("test", HUMAN),
    "evalplus/mbppplus": repository("test", MBPP_PLUS),
    "google-research-datasets/mbpp": repository("train", MBPP, config="full"),
    "openai/gsm8k": repository("train", {"question": "1?", "answer": "1\n#### 1"}, config="main"),
    "HuggingFaceH4/MATH-500": {
        "test.jsonl": b'{"problem": "1?", "solution": "\\\\boxed{1}", "level": 2, "unique_id": "a/1"}\n'
    },
    "deepmind/code_contests": repository("valid", ROW),
    "me/mine": {"one.csv": b"id,ask,say\n7,p,c\n8,p,d\n"},
    "me/damaged": {"data.parquet": file_of(HUMAN)[:200]},
}
MINE = {"columns": {"task_id": "id", "prompt": "ask", "completion": "say"}, "validation_share": 0}


def test_every_source_of_the_hub_loads_from_it(tmp_path: Path) -> None:
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        ("humaneval", "test", {"hub": True}),
        ("humanevalplus", "test", {"hub": True}),
        ("mbppplus", "test", {"hub": True}),
        ("mbpp", "train", {"hub": True}),
        ("gsm8k", "train", {"hub": True, "validation_share": 0}),
        ("math", "test", {"hub": True}),
        ("codecontests", "valid", {"hub": True}),
        ("table", "train", {"hub": "me/mine", **MINE}),
        ("table", "train", {"hub": "me/missing"}),
        ("table", "train", {"hub": "me/gated"}),
        ("table", "train", {"hub": "me/damaged"}),
        ("table", "train", {"hub": "me/mine", "hub_split": "dev"}),
        ("table", "train", {"hub": "openai/gsm8k", "hub_config": "minor"}),
    ]
    with hub_of(HUB, private=frozenset({"me/gated"})) as url:
        environment = child_environment() | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(wanted)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    *loaded, mine, missing, gated, damaged, split, config = map(
        json.loads, done.stdout.splitlines()
    )
    assert [[example["completion"] for example in found] for found in loaded] == [
        ["    return 1"],
        ["    return 1"],
        ["def one(): return 1"],
        ["def one():\n    return 1"],
        ["1\n#### 1"],
        ["\\boxed{1}"],
        ["a, b = map(int, input().split())\nprint(a + b)", "print(sum(map(int, input().split())))"]
        + [example["completion"] for example in loaded[-1][2:]],
    ]
    assert [example["reward"] for example in loaded[-1]] == [1.0, 1.0, 0.0, 0.0]
    assert loaded[-1][0]["time_limit_seconds"] == 1.5
    assert [(e["task_id"], e["prompt"], e["completion"]) for e in mine] == [
        ("7", "p", "c"),
        ("8", "p", "d"),
    ]
    log_in = "private and gated data sets need `hf auth login`. Or download the files and set path."
    for message, why in (
        (missing, "me/missing: cannot be loaded from the hub (Dataset 'me/missing' doesn't exist"),
        (gated, "me/gated: cannot be loaded from the hub (Dataset 'me/gated' is a gated dataset"),
        (damaged, "me/damaged: cannot be loaded from the hub ("),
        (split, "me/mine: cannot be loaded from the hub (Bad split: dev."),
        (config, "openai/gsm8k: cannot be loaded from the hub (BuilderConfig 'minor' not found."),
    ):
        assert message.startswith(why)
        assert message.endswith(log_in)
        assert "\n" not in message
