"""`wmtp data`: files of examples, mutants that were run, and what a sample looks like."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from tokenizers import AddedToken
from typer.testing import CliRunner, Result

from tests.data.test_templates import CHATML
from wmtp.cli import app
from wmtp.config.environment import Environment
from wmtp.config.load import load_document
from wmtp.data.example import Example
from wmtp.data.example_files import read_file, write_file
from wmtp.data.sources.mbpp import SPLITS
from wmtp.data.tokenizer import train_tokenizer
from wmtp.data.verified_mutants import Search
from wmtp.errors import OutputError
from wmtp.outputs import locked
from wmtp.pipeline.mutate import Mutation, failure_kind, mutate
from wmtp.pipeline.train import train
from wmtp.sandbox import Limits, Program, Sandbox, Verdict

ROOT = Path(__file__).resolve().parents[1]
TWO = Mutation(Search(wanted=2))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)], prog_name="wmtp")


def solutions(number: int = 4) -> list[Example]:
    """Problems with a right solution each."""
    return [
        Example(
            f"t/{n}",
            f"Add {n} to each.\n",
            f"def f(xs):\n    out = []\n    for x in xs:\n        out.append(x + {n})\n    return out\n",
            reward=1.0,
            tests=f"assert f([1, 5]) == [{1 + n}, {5 + n}]\nassert f([]) == []\n",
            source="own",
        )
        for n in range(1, number + 1)
    ]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as opened:
        yield opened


class Counting:
    """A sandbox that counts what it runs, and can break off like a person at the keyboard."""

    def __init__(self, sandbox: Sandbox, stop_after: int | None = None) -> None:
        self.sandbox = sandbox
        self.tier = sandbox.tier
        self.ran = 0
        self.stop_after = stop_after

    def judge(self, programs: Iterable[Program]) -> Iterator[tuple[int, Verdict]]:
        for done in self.sandbox.judge(programs):
            if self.ran == self.stop_after:
                raise KeyboardInterrupt
            self.ran += 1
            yield done


# ---- build --------------------------------------------------------------------------------------


def test_build_says_the_range_of_many_difficulties(tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    examples = [Example(f"t/{i}", "p", f"c{i}", difficulty=i * 10.0) for i in range(20)]
    write_file(source, [*examples, Example("t/x", "p", "c")])
    done = run("build", "table", "--set", f"path={source}", "--output", tmp_path / "out.jsonl")
    assert done.exit_code == 0, done.output
    assert "  difficulty  0 to 190, 20 values: 20, unknown: 1\n" in done.stdout


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_build_writes_all_splits_of_mbpp(shared_data: Path, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"mbpp.{ending}"
    path = f"path={shared_data / 'mbpp' / 'mbpp.jsonl'}"
    done = run("build", "mbpp", "--set", path, "--output", file, "--json")
    assert done.exit_code == 0, done.output
    expected = {split: len(numbers) for split, numbers in SPLITS.items()}
    assert json.loads(done.stdout) == {
        "output": str(file),
        "examples": 974,
        "notices": [],
        "split": dict(sorted(expected.items())),
        "reward": {"1.0": 974},
        "difficulty": {"unknown": 974},
    }
    examples = list(read_file(file))
    assert Counter(example.split for example in examples) == expected
    again = run("build", "mbpp", "--set", path, "--output", file)
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_build_takes_one_split_and_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "mini.jsonl"
    small = ["--set", "num_problems=30", "--split", "train", "--limit", "7"]
    done = run("build", "minicode", *small, "--output", file)
    assert done.exit_code == 0, done.output
    assert "train: 7" in done.stdout
    assert {example.split for example in read_file(file)} == {"train"}
    jsonl = run("build", "jsonl", "--set", f"path={file}", "--output", tmp_path / "copy.jsonl")
    assert jsonl.exit_code == 0, jsonl.output
    assert (tmp_path / "copy.jsonl").read_bytes() == file.read_bytes()


def test_build_waits_for_nobody_and_cleans_up_after_a_kill(tmp_path: Path) -> None:
    given, output = tmp_path / "given.jsonl", tmp_path / "out.jsonl"
    write_file(given, solutions())
    build = ("build", "table", "--set", f"path={given}", "--output", output)
    dead, other = (tmp_path / f".{name}.0123456789ab.partial" for name in ("out.jsonl", "out"))
    dead.touch()
    other.touch()
    with locked(tmp_path / "out.jsonl.partial"):
        meanwhile = run(*build)
    assert meanwhile.exit_code == 2
    assert "out.jsonl.partial: another process is at work there." in meanwhile.stderr
    assert run(*build).exit_code == 0
    assert sorted(tmp_path.iterdir()) == [other, given, output]
    output.unlink()
    output.symlink_to(tmp_path / "absent")
    assert "exists already" in run(*build).stderr
    assert not (tmp_path / "absent").exists()
    long = run(*build[:-1], tmp_path / f"{'x' * 300}.jsonl")
    assert long.exit_code == 2
    assert "its name is too long" in long.stderr


def test_a_file_without_examples_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for command in (
        ("build", "table", "--set", f"path={empty}", "--output", tmp_path / "x.jsonl"),
        ("mutate", empty, "--output", tmp_path / "x.jsonl"),
        ("inspect", empty, "--bytes"),
    ):
        done = run(*command)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"{empty}: no examples. The file is empty.")


def test_build_counts_empty_completions(tmp_path: Path) -> None:
    given = tmp_path / "given.jsonl"
    write_file(given, [*solutions(2), Example("t/8", "p", ""), Example("t/9", "p", "")])
    done = run("build", "table", "--set", f"path={given}", "--output", tmp_path / "out.jsonl")
    assert "note        2 completions are empty; the first is that of t/8" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "minicod", "--output", "x.jsonl"], "Did you mean 'minicode'?"),
        (
            ["build", "mbpp", "--output", "x.jsonl"],
            "neither path nor hub is set. Download mbpp.jsonl",
        ),
        (["build", "mbpp", "--set", "pat=x", "--output", "x.jsonl"], "Did you mean 'path'?"),
        (["build", "minicode", "--split", "trian", "--output", "x.jsonl"], "Did you mean 'train'?"),
        (["build", "minicode", "--output", "x.csv"], "Name it .jsonl or .parquet"),
        (["mutate", "--output", "x.jsonl"], "Give a file of examples, or --source NAME"),
        (["mutate", "absent.jsonl", "--output", "x.jsonl"], "absent.jsonl: no such file"),
        (["mutate", "a.jsonl", "--set", "a=1", "--output", "x.jsonl"], "--set is for --source"),
        (["mutate", "a.jsonl", "--timeouts", "no", "--output", "x.jsonl"], "expected drop or keep"),
        (["inspect", "absent.jsonl", "--bytes"], "absent.jsonl: no such file"),
        (["inspect", "absent.jsonl"], "--tokenizer with a run folder"),
        (["inspect", "--recipe", "recipes/critic.yaml"], "the recipe trains its own"),
        (["inspect", "a.jsonl", "--bytes", "--tokenizer", "t"], "not both"),
    ],
)
def test_mistakes_are_one_message(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(ROOT)
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not Path("x.jsonl").exists()


# ---- mutate -------------------------------------------------------------------------------------


def test_mutants_of_mbpp_train_a_critic(shared_data: Path, tmp_path: Path) -> None:
    mbpp = f"path={shared_data / 'mbpp' / 'mbpp.jsonl'}"
    few, mutated = tmp_path / "few.parquet", tmp_path / "mutated.jsonl"
    built = run("build", "mbpp", "--set", mbpp, "--split", "train", "--limit", "4", "--output", few)
    assert built.exit_code == 0, built.output
    done = run("mutate", few, "--output", mutated, "--per-example", "2", "--json")
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert counts["written"]["original"] == 4
    assert counts["written"]["failed"] >= 6  # one of them is a single call
    for row in counts["operators"].values():
        assert row["made"] == sum(row[name] for name in ("failed", "equivalent", "timeout"))
    assert sum(counts["failures"].values()) == sum(
        r["failed"] for r in counts["operators"].values()
    )
    examples = list(read_file(mutated))
    originals = list(read_file(few))
    assert [e for e in examples if e.reward == 1.0] == originals
    for mutant in (e for e in examples if e.reward == 0.0):
        assert mutant.fault_spans
        assert mutant.source.startswith("mbpp/mutant/")
        (original,) = [e for e in originals if e.task_id == mutant.task_id]
        assert (mutant.tests, mutant.prompt, mutant.split) == (
            original.tests,
            original.prompt,
            "train",
        )
        assert mutant.completion != original.completion

    document = load_document(ROOT / "recipes" / "critic.yaml")
    document.override(
        [
            f"data={{source: jsonl, path: {mutated}, max_length: 192, incorrect_share: 0.5, "
            "validation_split: null}",
            "evaluation=null",
            "optimization.steps=2",
            "model.architecture.hidden_size=32",
            "model.architecture.intermediate_size=48",
        ]
    )
    where = Environment(output_root=str(tmp_path), device="cpu", tracking={"enabled": False})
    trained = train(document, where)
    assert trained.totals()["steps"] == 2

    rho1 = [
        *("inspect", mutated, "--recipe", ROOT / "recipes" / "rho1.yaml"),
        *("--set", f"tokenizer.pretrained={trained.model}"),
        *("--set", f"algorithm.reference={trained.path}"),
    ]
    shown = run(*rho1)
    assert shown.exit_code == 0, shown.output
    assert "ref_ce" in shown.stdout
    absent = run(*rho1, "--set", f"algorithm.reference={tmp_path / 'absent'}")
    assert "is not there yet" in " ".join(absent.stdout.split())


def test_any_number_of_workers_and_any_interruption_give_the_same_bytes(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    examples = solutions()
    whole = Counting(sandbox)
    counts = mutate(examples, tmp_path / "whole.jsonl", TWO, whole)
    bytes_ = (tmp_path / "whole.jsonl").read_bytes()
    with Sandbox(workers=1) as alone:
        mutate(examples, tmp_path / "alone.jsonl", TWO, alone)
    assert (tmp_path / "alone.jsonl").read_bytes() == bytes_

    output = tmp_path / "broken.jsonl"
    ran = 0
    for stop in (0, 1, 4, 2):
        broken = Counting(sandbox, stop)
        with pytest.raises(KeyboardInterrupt):
            mutate(examples, output, TWO, broken, resume=True)
        ran += broken.ran
        assert not output.exists()
    with pytest.raises(OutputError, match="an unfinished mutation is there. Add --resume"):
        mutate(examples, output, TWO, sandbox)
    with pytest.raises(OutputError, match=r"with other settings is there \(per_example: 2 there"):
        mutate(examples, output, Mutation(Search(wanted=3)), sandbox, resume=True)
    with pytest.raises(OutputError, match=r"with other settings is there \(examples"):
        mutate(examples[1:], output, TWO, sandbox, resume=True)
    journal = tmp_path / "broken.jsonl.partial" / "verdicts.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"sha256": "cut o')  # as a kill leaves it
    last = Counting(sandbox)
    assert mutate(examples, output, TWO, last, resume=True) == {**counts, "output": str(output)}
    assert output.read_bytes() == bytes_
    assert ran + last.ran == whole.ran
    assert not journal.parent.exists()
    with pytest.raises(OutputError, match="exists already"):
        mutate(examples, output, TWO, sandbox, resume=True)


def test_a_killed_command_resumes(sandbox: Sandbox, tmp_path: Path) -> None:
    given, output = tmp_path / "given.jsonl", tmp_path / "mutated.parquet"
    write_file(given, solutions(8))
    command = ["data", "mutate", str(given), "--output", str(output), "--per-example", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "wmtp", *command], stderr=subprocess.PIPE, cwd=ROOT
    )
    journal = tmp_path / "mutated.parquet.partial" / "verdicts.jsonl"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 500):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    known = len(journal.read_bytes().splitlines())
    assert not output.exists()
    last, whole = Counting(sandbox), Counting(sandbox)
    mutate(solutions(8), output, Mutation(Search(2)), last, resume=True)
    mutate(solutions(8), tmp_path / "whole.parquet", Mutation(Search(2)), whole)
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert known - 1 <= whole.ran - last.ran <= known


def test_a_full_disk_loses_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", str(disk)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        output = disk / "out.jsonl"
        with pytest.raises(OutputError, match="the disk is full. Free some space"):
            mutate(solutions(12), output, TWO, sandbox)
        assert not output.exists()
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        mutate(solutions(12), output, TWO, sandbox, resume=True)
        mutate(solutions(12), tmp_path / "whole.jsonl", TWO, sandbox)
        assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


HOSTILE = {
    "leaves": "import os\nos._exit(0)\n",
    "ends": "import sys\nsys.exit(0)\n",
    "forks": "import os\nwhile True:\n    os.fork()\n",
    "writes": "open('{file}', 'w').write('x')\n",
    "spins": "while True:\n    pass\n",
    "is wrong": "def f(xs):\n    return xs\n",
    "is no Python": "def f(:\n",
}


def test_hostile_and_wrong_solutions_are_contained_named_and_left_out(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (good,) = solutions(1)
    examples = [
        Example(name, "p", code.replace("{file}", str(canary)), reward=1.0, tests=good.tests)
        for name, code in HOSTILE.items()
    ]
    untouched = [
        Example("wrong already", "p", "def f(xs): return 1", reward=0.0, tests=good.tests),
        Example("untested", "p", "def f(xs): return 1", reward=1.0),
        Example("blank tests", "p", "def f(xs): return 2", reward=1.0, tests=" \n"),
    ]
    given = tmp_path / "given.jsonl"
    write_file(given, [*examples, *untouched, good])
    done = run(
        *("mutate", given, "--output", tmp_path / "out.jsonl", "--json"),
        *("--cpu-seconds", "0.5", "--per-example", "1"),
    )
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert [entry["task_id"] for entry in counts["skipped"]] == list(HOSTILE)
    assert counts["written"]["unchanged"] == 3
    written = list(read_file(tmp_path / "out.jsonl"))
    assert written[:4] == [*untouched, good]
    assert len(written) == 5
    assert not canary.exists()
    only = tmp_path / "only.jsonl"
    write_file(only, examples[-2:])
    done = run("mutate", only, "--output", tmp_path / "none.jsonl")
    assert done.exit_code == 2
    assert "of 2 solutions with tests 0 pass them" in done.stderr
    assert not list(tmp_path.glob("none*"))
    write_file(tmp_path / "bare.jsonl", untouched)
    done = run("mutate", tmp_path / "bare.jsonl", "--output", tmp_path / "none.jsonl")
    assert done.exit_code == 2
    assert "none of the 3 examples can be mutated" in done.stderr


def test_policies_duplicates_and_an_unknown_reward(sandbox: Sandbox, tmp_path: Path) -> None:
    body = "def f(x):\n    n = 0\n    while n < 3:\n        n += 1\n    return x[0:]\n"
    tests = "assert f([4]) == [4]\n"
    unknown = Example("t", "p", body, tests=tests, source="own")
    search = Search(12, limits=Limits(cpu_seconds=0.3), count_timeouts=True)
    keep = Mutation(search, frozenset({"failed", "timeout", "equivalent"}))
    counts = mutate([unknown], tmp_path / "all.jsonl", keep, sandbox)
    found = list(read_file(tmp_path / "all.jsonl"))
    assert found[0].reward == 1.0
    kinds = Counter(e.source.split("/")[1] for e in found[1:])
    written = counts["written"]
    assert kinds == {
        "mutant": written["failed"],
        "timeout": written["timeout"],
        "equivalent": written["equivalent"],
    }
    assert all(kinds.values())
    for example in found[1:]:
        is_equivalent = example.source.startswith("own/equivalent/")
        assert example.reward == float(is_equivalent)
        assert bool(example.fault_spans) != is_equivalent
    # What the data holds already is not written again.
    wrong = next(e for e in found if e.source.startswith("own/mutant/"))
    plain = Example("t", "p", wrong.completion, reward=0.0, tests=tests)
    verified = replace(unknown, reward=1.0)
    again = mutate([plain, unknown, verified, plain], tmp_path / "again.jsonl", keep, sandbox)
    assert (again["duplicates"], again["repeated"]) == (1, 2)
    assert len(set(read_file(tmp_path / "again.jsonl"))) == sum(again["written"].values())
    assert again["written"] == {**written, "failed": written["failed"] - 1, "unchanged": 1}


@pytest.mark.parametrize(
    ("detail", "kind"),
    [
        ("AssertionError at line 1 of the tests: assert f()", "AssertionError"),
        ("while the program was loaded: NameError: name 'x'", "NameError"),
        ("StopIteration", "StopIteration"),
        ("MyError: no", "MyError"),
        ("the program ended before its tests (exit status 0)", "other"),
        ("", "other"),
    ],
)
def test_how_a_mutant_failed(detail: str, kind: str) -> None:
    assert failure_kind(detail) == kind


# ---- inspect ------------------------------------------------------------------------------------


def mutated(folder: Path) -> Path:
    (good,) = solutions(1)
    wrong = {**good.to_json(), "completion": good.completion.replace("+ 1", "- 1"), "reward": 0.0}
    place = good.completion.index("+ 1")
    file = folder / "examples.jsonl"
    write_file(file, [good, Example.from_json({**wrong, "fault_spans": [[place, place + 1]]})])
    return file


def test_inspect_shows_tokens_faults_and_what_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    file = mutated(tmp_path)
    done = run("inspect", file, "--bytes", "--index", "1", "--max-length", "90", "--num-heads", "2")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.stdout
    length = len(solutions(1)[0].prompt) + 1
    assert f"{length} prompt, {90 - length} learned" in done.stdout
    assert "(│x│·│⟦-⟧│·│1│)│" in done.stdout
    assert "cut off: longer than max_length" in done.stdout
    assert "head 1" in done.stdout
    assert "head 2" not in done.stdout
    assert "2 (100.0 %) cut" in done.stdout
    assert "1 (50.0 %) have one; cut off in 0" in done.stdout


def test_inspect_with_the_tokenizer_lengths_and_heads_of_a_recipe(tmp_path: Path) -> None:
    file, page = mutated(tmp_path), tmp_path / "page.html"
    folder = tmp_path / "run" / "tokenizer"
    train_tokenizer([solutions(1)[0].completion] * 3, 300).save_pretrained(folder)
    options = ["--recipe", ROOT / "recipes" / "critic.yaml", "--tokenizer", tmp_path / "run"]
    done = run("inspect", file, *options, "--task-id", "t/1", "--html", page)
    assert done.exit_code == 0, done.output
    assert "192 tokens: 0 (0.0 %) cut" in done.stdout
    assert "head 3" in done.stdout
    assert "⇥ tab" in page.read_text(encoding="utf-8")
    absent = run("inspect", file, *options, "--task-id", "t/2")
    assert absent.exit_code == 2
    assert "Did you mean 't/1'?" in absent.stderr
    far = run("inspect", file, *options, "--index", "2")
    assert far.exit_code == 2
    assert "there are 2, from 0" in far.stderr


def shown_for(folder: Path, **data: Any) -> str:
    """Return what inspect shows of a chat example with a recipe of these settings of `data`."""
    tokenizer = train_tokenizer(["user\nassistant\n", "def f(x):\n    return x\n"] * 3, 300)
    tokenizer.add_tokens(
        [AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")]
    )
    tokenizer.chat_template, tokenizer.eos_token = CHATML, "<|im_end|>"
    tokenizer.save_pretrained(folder / "tokenizer")
    write_file(folder / "e.jsonl", [Example("t/0", "\u4f60 x\n", "    return x\n", 1.0)])
    recipe = load_document(ROOT / "recipes" / "reference.yaml").data
    recipe["data"] = {"source": "table", "path": str(folder / "e.jsonl"), **data}
    recipe["tokenizer"] = {"pretrained": str(folder / "tokenizer")}
    (folder / "r.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    done = run("inspect", "--recipe", folder / "r.yaml", "--num-heads", "3")
    assert done.exit_code == 0, done.output
    (folder / "e.jsonl").unlink()
    return done.stdout


@pytest.mark.parametrize("boundary", ["split", "joint"])
def test_inspect_shows_the_text_of_a_template_and_fits_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boundary: str
) -> None:
    monkeypatch.setenv("COLUMNS", "45")
    lines = shown_for(tmp_path, template="chat", boundary=boundary).splitlines()
    assert "<|im_start|>│user│↵│" in lines
    assert "\u4f60(1/3)│\u4f60(2/3)│\u4f60(3/3)│·x│↵│" in lines
    assert "\u010a" not in "".join(lines)  # how a byte-level tokenizer names a line end
    assert max(map(cell_len, lines)) <= 45
    tables = [line.split() for line in lines if line.startswith("place")]
    assert [table[3:] for table in tables] == [["head", "0"], ["head", "1"], ["head", "2"]]
    rows = [line for line in lines if re.search(r" (prompt|learned)  ", line)]
    assert len(rows) == 3 * (8 if boundary == "split" else 7)
    assert all(row[:5].strip().isdigit() for row in rows)
    # "\n   " is one token, and holds the template's line end.
    assert ("<|im_start|>│assistant│" in lines) == (boundary == "joint")


def test_inspect_says_what_the_recipe_does_with_long_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for truncation, fate in (("cut", "cut, 0 (0.0 %)"), ("drop", "longer and left out")):
        shown = shown_for(tmp_path, max_length=10, truncation=truncation)
        assert f"10 tokens: 1 (100.0 %) {fate}" in shown
        left_out = "it is longer than max_length, and data.truncation is drop"
        assert (left_out in shown) == (truncation == "drop")
        assert ("completion: learned" in shown) == (truncation == "cut")


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from wmtp.cli import main\ntry: main()\nfinally: print(*sys.modules)"
    done: Any = subprocess.run(
        [sys.executable, "-c", code, "data", "mutate", "--help"], capture_output=True, text=True
    )
    assert "--per-example" in done.stdout
    assert {"torch", "transformers", "numpy", "pyarrow"}.isdisjoint(done.stdout.split())
