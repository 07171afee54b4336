"""The frame of the command line: exit codes, messages, and what is not imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import wmtp.config.check
import wmtp.doctor
from wmtp.cli import app
from wmtp.config.environment import Environment
from wmtp.config.schema import schema
from wmtp.doctor import Check, examine
from wmtp.errors import DataError
from wmtp.registry import ALGORITHMS, BENCHMARKS, SOURCES

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "numpy", "mlflow", "matplotlib", "datasets", "pandas", "scipy"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="wmtp")


def in_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a fresh interpreter, which prints its modules at the end."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('modules:', *sorted(sys.modules)))\n"
        "from wmtp.cli import main\n"
        "main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--help"], ["list"], ["lst"]])
def test_nothing_heavy_is_imported_for(arguments: list[str]) -> None:
    done = in_process(*arguments)
    shown, _, modules = done.stdout.rpartition("modules:")
    assert HEAVY.isdisjoint(modules.split())
    assert done.returncode == (2 if arguments == ["lst"] else 0)
    assert shown or done.stderr


def test_an_unknown_command_has_a_near_match() -> None:
    done = run("lst")
    assert done.exit_code == 2
    assert "Did you mean 'list'?" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("a.jsonl:3: not valid JSON. Mend this line."), 2, "a.jsonl:3: not valid JSON. "),
        (
            KeyboardInterrupt(),
            130,
            "Interrupted. The same command goes on from there (`wmtp data build` begins again); "
            "`wmtp train` and `wmtp data mutate` need --resume.",
        ),
    ],
)
def test_what_a_command_raises(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(_: Path) -> str:
        raise error

    monkeypatch.setattr(wmtp.config.check, "check_file", fail)
    done = run("check", "x.yaml")
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_a_bug_keeps_its_traceback() -> None:
    code = (
        "import wmtp.config.check as module\n"
        "def fail(path): secret = 'hunter2'; raise ZeroDivisionError('bug')\n"
        "module.check_file = fail\n"
        "from wmtp.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "check", "x"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "ZeroDivisionError: bug" in done.stderr
    assert "hunter2" not in done.stderr


def test_a_full_disk_behind_standard_output() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wmtp", "list"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == (
        "Cannot write: the disk, or what standard output goes to, is full. Free some space.\n"
    )


def test_arguments_that_are_not_utf_8_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wmtp", "check", b"caf\xe9.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(r"'caf\udce9.yaml': not UTF-8. Rename that file")


@pytest.mark.parametrize("seed", ["-1", str(2**31)])
def test_seeds_have_bounds(tmp_path: Path, seed: str) -> None:
    done = run("eval", str(tmp_path), "--seed", seed)
    assert done.exit_code == 2
    assert "Invalid value for '--seed'" in done.stderr


# ---- check --------------------------------------------------------------------------------------


def test_check_says_what_a_file_is(tmp_path: Path) -> None:
    file = tmp_path / "here.yaml"
    file.write_text("name: here\nthreads: 2\n")
    done = run("check", str(file))
    assert (done.exit_code, done.stdout) == (0, f"{file}: environment here, no mistakes found\n")


def test_check_names_the_mistakes_of_all_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("devise: cpu\n")
    two.write_text("name: x\nalgorithm: {name: mtp-baseline}\n")
    done = run("check", str(one), str(two), str(tmp_path / "three.yaml"))
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"{one}:1 devise: unknown key. Did you mean 'device'?")
    assert lines[1:-1] == [f"{two} {key}: missing." for key in ("model", "data", "optimization")]
    assert lines[-1].startswith(f"{tmp_path}/three.yaml: no such file.")


def test_check_of_a_suite_names_the_arm(tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(
        "name: s\ntitle: S\nreference: {tokenizer: {vocab_size: 300}}\n"
        "recipe:\n"
        "  algorithm: {name: mtp-baseline}\n"
        "  model: {architecture: {hidden_size: 64, intermediate_size: 64, num_layers: 2,"
        " num_attention_heads: 4}}\n"
        "  data: {source: minicode}\n"
        "  optimization: {learning_rate: 1e-3, global_batch: 8, steps: 3}\n"
        "arms:\n"
        "  base: {}\n"
        "  slow: {optimization: {learning_rat: 1e-4}}\n"
    )
    for command in ("check", "experiment"):
        done = run(command, str(file))
        assert done.exit_code == 2
        assert done.stderr.startswith(f"{file}, arm slow: optimization.learning_rat: unknown key.")
    file.write_text(file.read_text().replace("learning_rat:", "steps:"))
    done = run("check", str(file))
    assert done.exit_code == 2
    assert "arm slow has its own optimization.steps" in done.stderr
    file.write_text(file.read_text().replace("{steps: 1e-4}", "{learning_rate: 1e-4}"))
    assert run("check", str(file)).stdout == f"{file}: suite s of 2 arms, no mistakes found\n"


@pytest.mark.parametrize(
    "file",
    [
        *ROOT.glob("recipes/*.yaml"),
        *ROOT.glob("environments/*.yaml"),
        *ROOT.glob("src/wmtp/recipes/*.yaml"),
    ],
    ids=lambda file: file.name,
)
def test_shipped_settings_have_no_mistakes(file: Path) -> None:
    done = run("check", str(file))
    assert (done.exit_code, done.stderr) == (0, "")


# ---- list and schema ----------------------------------------------------------------------------


def test_list_as_text_and_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entries = json.loads(run("list", "--json").stdout)
    names = [(entry["kind"], entry["name"]) for entry in entries]
    assert names == [
        (registry.kind, name)
        for registry in (ALGORITHMS, SOURCES, BENCHMARKS)
        for name in registry.names()
    ]
    assert all(entry["summary"] and entry["origin"] == "built-in" for entry in entries)
    text = run("list").stdout
    assert [line for line in text.splitlines() if not line.startswith(" ")] == [
        "algorithm:",
        "data source:",
        "benchmark:",
    ]
    assert all(entry["summary"] in text for entry in entries)


def test_schema_of_a_recipe_holds_the_options_of_plugins() -> None:
    found = json.loads(run("schema").stdout)
    sections = found["$defs"]
    algorithms = sections["AlgorithmSection"]["allOf"]
    assert [rule["if"]["properties"]["name"]["const"] for rule in algorithms] == ALGORITHMS.names()
    rho1 = next(rule for rule in algorithms if "rho1-wmtp" in str(rule["if"]))
    assert rho1["then"]["properties"]["keep"]["type"] == "number"
    assert sections["AlgorithmSection"]["unevaluatedProperties"] is False
    assert found["$ref"] == "#/$defs/Recipe"
    assert sections["Recipe"]["required"] == ["name", "algorithm", "model", "data", "optimization"]
    assert all(reference in sections for reference in references(found))


def references(value: Any) -> set[str]:
    """Return the names that a JSON Schema refers to."""
    if isinstance(value, dict):
        own = {value["$ref"].removeprefix("#/$defs/")} if "$ref" in value else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


def test_schema_of_other_names() -> None:
    assert set(schema("environment")["properties"]) == set(Environment.model_fields)
    assert set(schema("minicode")) == {"data source", "benchmark"}
    done = run("schema", "rho1")
    assert done.exit_code == 2
    assert done.stderr == (
        "schema: unknown name 'rho1'. Did you mean 'rho1-wmtp'? See `wmtp list`.\n"
    )


# ---- doctor -------------------------------------------------------------------------------------


def test_doctor_as_text_and_as_json(tmp_path: Path) -> None:
    settings = ["--set-env", f"output_root={tmp_path}/new/runs"]
    done = run("doctor", "--json", *settings)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert list(checks) == [
        "python", "libraries", "torch", "memory", "sandbox", "tracking", "output", "disk",
    ]  # fmt: skip
    failed = {name for name, check in checks.items() if check["status"] == "failed"}
    assert failed <= {"sandbox"}  # which depends on the machine
    assert done.exit_code == (2 if failed else 0)
    assert all(check["status"] == "ok" or check["fix"] for check in checks.values())
    assert list(tmp_path.iterdir()) == []
    text = run("doctor", *settings).stdout
    assert all(check["detail"] in text for check in checks.values())


def found(name: str, **settings: Any) -> Check:
    """Return one finding of the doctor in an environment."""
    return next(check for check in examine(Environment(**settings)) if check.name == name)


def test_doctor_on_a_machine_that_lacks_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    finding = found("output", output_root=f"{tmp_path}/file/runs")
    assert (finding.status, "not a folder" in finding.detail) == ("failed", True)
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        finding = found("torch", device="cuda")
        assert (finding.status, finding.fix != "") == ("failed", True)
    assert found("tracking", tracking={"enabled": False}).detail == "disabled in the environment"
    finding = found("sandbox", sandbox={"mode": "limits-only"})
    assert finding.status == "warning"

    def missing(name: str) -> str:
        raise wmtp.doctor.PackageNotFoundError(name)

    monkeypatch.setattr(wmtp.doctor, "version", missing)
    assert "wmtp[tracking]" in found("tracking").fix
    assert found("libraries").detail == "transformers is missing"


def test_doctor_exits_2_when_something_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Check("torch", "failed", "no torch", "Run `make install`.")
    monkeypatch.setattr(wmtp.doctor, "examine", lambda environment: iter([finding]))
    done = run("doctor")
    assert done.exit_code == 2
    assert done.stdout == f"failed   torch      no torch\n{'':20}Run `make install`.\n"
