"""`wmtp judge` on samples of anyone's: formats, what is missing, k, and a run that was killed."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from wmtp.cli import app
from wmtp.sandbox import probe

ROOT = Path(__file__).resolve().parents[2]
TASKS = [
    {
        "task_id": f"HumanEval/{k}",
        "prompt": f"import math\n\ndef add{k}(a, b):\n    '''Add {k} as well.'''\n",
        "entry_point": f"add{k}",
        "canonical_solution": f"    return a + b + {k}\n",
        "test": f"def check(candidate):\n    assert candidate(1, 2) == {3 + k}\n",
    }
    for k in range(4)
]
RIGHT = [str(task["canonical_solution"]) for task in TASKS]


@pytest.fixture(scope="module", autouse=True)
def isolation() -> None:
    status = probe()
    if status.tier is None:
        pytest.skip("; ".join(status.lines))


def write(path: Path, *records: dict[str, Any]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def sample(k: int, text: str, **more: Any) -> dict[str, Any]:
    return {"task_id": f"HumanEval/{k}", "completion": text, **more}


def command(folder: Path, samples: Path, *more: str) -> list[str]:
    data = write(folder / "HumanEval.jsonl", *TASKS)
    arguments = ["judge", str(samples), "--benchmark", "humaneval", "--data", str(data)]
    return [*arguments, "--output", str(folder / "out"), *more]


def run(folder: Path, samples: Path, *more: str) -> Result:
    return CliRunner().invoke(app, command(folder, samples, *more), prog_name="wmtp")


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text())
    return found


def outcomes(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (folder / "out" / "outcomes.jsonl").read_text().split("\n")[:-1]
    ]


def test_completions_and_whole_solutions_from_a_compressed_file(tmp_path: Path) -> None:
    solution = f"{TASKS[1]['prompt']}{RIGHT[1]}"
    samples = write(
        tmp_path / "samples.jsonl.gz",
        sample(0, RIGHT[0]),
        {"task_id": "HumanEval/1", "solution": solution},
        sample(2, f"Here:\n```python\ndef add2(a, b):\n{RIGHT[2]}```\n"),
        sample(3, ""),
    )
    done = run(tmp_path, samples)
    assert done.exit_code == 0, done.output
    found = report(tmp_path)
    assert found["metrics"]["pass@1"]["value"] == 0.75
    assert found["extraction"] == "code"
    assert found["tasks"] == {"with_samples": 4, "without_samples": [], "noted": {}}
    assert found["outcomes"] == {"passed": 3, "failed": 1}


def test_the_rule_of_extraction_is_a_setting(tmp_path: Path) -> None:
    samples = write(tmp_path / "s.jsonl", sample(0, f"```\n{RIGHT[0]}```"))
    assert run(tmp_path, samples, "--set", "extraction=raw").exit_code == 0
    assert report(tmp_path)["extraction"] == "raw"
    assert report(tmp_path)["outcomes"] == {"failed": 1}
    refused = run(tmp_path, samples, "--set", "extraction=markdown")
    assert refused.exit_code == 2
    assert "extraction" in refused.stderr


def test_tasks_without_samples_are_counted_and_said(tmp_path: Path) -> None:
    samples = write(tmp_path / "s.jsonl", sample(1, RIGHT[1]), sample(3, RIGHT[3]))
    done = run(tmp_path, samples)
    assert "no samples for 2 of 4 tasks (the first: HumanEval/0)" in " ".join(done.stderr.split())
    found = report(tmp_path)
    assert found["tasks"]["without_samples"] == ["HumanEval/0", "HumanEval/2"]
    assert found["metrics"]["pass@1"] == {**found["metrics"]["pass@1"], "value": 1.0, "n": 2}
    # A bound on the tasks leaves out the samples of the others.
    limited = run(tmp_path, samples, "--set", "limit=2", "--output", str(tmp_path / "limited"))
    assert limited.exit_code == 0, limited.output
    lines = (tmp_path / "limited" / "outcomes.jsonl").read_text().splitlines()
    assert [json.loads(line)["task_id"] for line in lines] == ["HumanEval/1"]


def test_k_above_the_samples_of_any_task_is_an_error(tmp_path: Path) -> None:
    samples = write(
        tmp_path / "s.jsonl", *(sample(0, RIGHT[k]) for k in (0, 1)), *[sample(1, RIGHT[1])] * 3
    )
    refused = run(tmp_path, samples, "--k", "1", "--k", "3")
    assert refused.exit_code == 2
    assert "pass@3 cannot be had: task HumanEval/0 has 2 samples" in " ".join(
        refused.stderr.split()
    )
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, samples, "--k", "2").exit_code == 0
    assert list(report(tmp_path)["metrics"]) == ["pass@2"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([sample(0, ""), sample(9, "")], "s.jsonl:2: this benchmark has no task 'HumanEval/9'"),
        ([sample(0, "", sample_id=1)] * 2, "s.jsonl:2: task 'HumanEval/0' with sample_id 1 twice"),
        ([{"task_id": "HumanEval/0"}], "s.jsonl:1: there is no 'completion'"),
        ([{"task_id": "HumanEval/0", "solution": 3}], "s.jsonl:1: solution is 3"),
        ([sample(0, "", sample_id=True)], "s.jsonl:1: sample_id is True"),
    ],
)
def test_what_is_wrong_with_samples_is_said(
    tmp_path: Path, records: list[dict[str, Any]], message: str
) -> None:
    done = run(tmp_path, write(tmp_path / "s.jsonl", *records))
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9 in the middle; the second run leaves every verdict of the first as it is."""
    wait = "    import time\n    time.sleep(0.05)\n"
    records = [sample(k % 4, wait + RIGHT[k % 4] + f"# {k}\n") for k in range(40)]
    samples = write(tmp_path / "s.jsonl", *records)
    whole = [sys.executable, "-m", "wmtp", *command(tmp_path, samples, "--workers", "2")]
    process = subprocess.Popen(
        whole, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    path = tmp_path / "out" / "outcomes.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (path.exists() and path.read_text().count("\n") >= 5):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = path.read_text()
    kept = before[: before.rfind("\n") + 1]
    assert 5 <= kept.count("\n") < 40
    assert not (tmp_path / "out" / "report.json").exists()
    done = run(tmp_path, samples, "--workers", "2")
    assert done.exit_code == 0, done.output
    assert path.read_text().startswith(kept)
    keys = [(o["task_id"], o["sample_id"]) for o in outcomes(tmp_path)]
    assert len(keys) == len(set(keys)) == 40
    assert report(tmp_path)["outcomes"] == {"passed": 40}
    # A third has nothing to do.
    third = path.read_bytes()
    assert run(tmp_path, samples).exit_code == 0
    assert path.read_bytes() == third


def test_judging_loads_none_of_the_libraries_that_run_models(tmp_path: Path) -> None:
    """They take seconds to load, and nothing of them is needed."""
    arguments = command(tmp_path, write(tmp_path / "s.jsonl", sample(0, RIGHT[0])))
    script = (
        "import sys\n"
        "from wmtp.cli import main\n"
        f"sys.argv = {['wmtp', *arguments]}\n"
        "try:\n    main()\n"
        "except SystemExit as done:\n    assert not done.code, done.code\n"
        "print({'torch', 'transformers', 'datasets', 'sympy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
    assert report(tmp_path)["outcomes"] == {"passed": 1}
