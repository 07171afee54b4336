"""From a recipe file to a report: a whole run, its interruption, and what goes wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tiny import tiny_data
from wmtp.config.environment import Environment
from wmtp.config.load import Document, load_document
from wmtp.config.recipe import Recipe
from wmtp.data.encode import EncodedSet
from wmtp.data.example import Example
from wmtp.data.sources.jsonl import write_examples
from wmtp.data.templates import template_of
from wmtp.data.tokenizer import load_tokenizer
from wmtp.display import Display
from wmtp.errors import CheckpointError, ConfigError, DataError, OutputError
from wmtp.modeling.mtp import MTPModel
from wmtp.outputs import locked
from wmtp.pipeline.benchmark import evaluation_document
from wmtp.pipeline.data import Data, encoding_notices, sample_order
from wmtp.pipeline.evaluate import evaluate, write_page
from wmtp.pipeline.judge import judge_samples
from wmtp.pipeline.train import train
from wmtp.run_folder import RunFolder, model_folder
from wmtp.sandbox import probe

ENVIRONMENT: dict[str, Any] = {
    "device": "cpu",
    "log_every_steps": 2,
    "tracking": {"enabled": False},
    "checkpoint": {"every_steps": 4},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of small problems with a correct and an incorrect solution each."""
    examples = []
    for i in range(40):
        prompt = f"# Add {i % 7} to x.\ndef f(x):\n"
        tests = f"assert f(3) == {3 + i % 7}"
        for sign, reward in (("+", 1.0), ("-", 0.0)):
            if reward == 0 and i % 7 == 0:
                continue
            completion = f"    return x {sign} {i % 7}"
            spans = ((13, 14),) if reward == 0 else ()
            split = "train" if i < 32 else "validation"
            examples.append(
                Example(
                    f"t/{i}", prompt, completion, reward, tests, prompt, 1.0, "test", split, spans
                )
            )
    path = tmp_path_factory.mktemp("data") / "problems.jsonl"
    write_examples(path, examples)
    return path


def recipe(file: Path, /, **changes: Any) -> Document:
    settings: dict[str, Any] = {
        "name": "run",
        "algorithm": {"name": "mtp-baseline"},
        "model": {
            "num_heads": 3,
            "architecture": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_layers": 2,
                "num_attention_heads": 4,
                "max_positions": 128,
            },
        },
        "tokenizer": {"vocab_size": 290},
        "data": {"source": "jsonl", "path": str(file), "max_length": 64, "incorrect_share": 0.5},
        "optimization": {"learning_rate": 1e-2, "global_batch": 4, "steps": 10},
        "evaluation": {"held_out_points": 2, "held_out_limit": 8},
    }
    return Document("recipe.yaml", {**settings, **changes})


def environment(folder: Path, **changes: Any) -> Environment:
    return Environment(**{**ENVIRONMENT, "output_root": str(folder), **changes})


def metrics(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


class Said(Display):
    """Keeps the lines that are shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_leaks_and_skipped_records_are_said(data: Path, tmp_path: Path) -> None:
    lines = data.read_text().splitlines(keepends=True)
    dirty, tasks = tmp_path / "dirty.jsonl", tmp_path / "tasks.jsonl"
    dirty.write_text("".join(["{}\n", *lines]))
    leaked = [line for line in lines if '"t/3"' in line]
    tasks.write_text("".join(leaked).replace('"t/3"', '"task"').replace('"train"', '"test"'))
    document, shown = recipe(dirty), Said()
    cleaning = {"against": [{"source": "table", "path": str(tasks)}], "action": "drop"}
    document.data["data"] |= {"on_bad_record": "skip", "decontaminate": cleaning}
    train(document, environment(tmp_path / "runs"), display=shown)
    assert any("data: bad records skipped: 1; the first: " in line for line in shown.lines)
    (leaks,) = (line for line in shown.lines if "decontamination" in line)
    # t/3, t/10, t/17, t/24 and t/31 ask the same, with a correct and an incorrect answer each.
    assert leaks.startswith("data: decontamination: of ")
    assert "training examples 10 overlap with 1 tasks of table, split test" in leaks
    assert "were dropped: t/3 with task, t/3 with task" in leaks
    cleaning["against"] = [{"source": "table", "paths": str(tasks)}]
    with pytest.raises(ConfigError, match=r"data\.decontaminate\.against\.0\.paths: unknown key"):
        train(document, environment(tmp_path / "other"))


def test_what_became_of_the_examples_is_said(data: Path) -> None:
    document, shown = recipe(data), Said()
    document.override(["optimization.global_batch=64", "data.incorrect_share=null"])
    chosen = document.validate(Recipe)
    sample_order(chosen, Data(None, tiny_data(16), None), shown)
    assert shown.lines[0] == (
        "data: a step of 64 samples (optimization.global_batch) holds some of the 16 examples more than "
        "once, and is more than an epoch"
    )
    counted = EncodedSet(tiny_data(4).items, truncated=1, dropped=3, empty=2, special=1)
    assert list(encoding_notices(counted, "training", chosen.data)) == [
        "of 7 training examples, 1 were cut at 64 tokens, 1 left out because their prompt fills them, "
        "2 because they have no completion",
        "1 training completions hold text that the tokenizer takes for a special token, such as its end "
        "of sequence",
    ]
    assert not list(encoding_notices(tiny_data(4), "training", chosen.data))


def test_a_run_leaves_what_it_should(data: Path, tmp_path: Path) -> None:
    run = train(recipe(data), environment(tmp_path))
    totals = run.totals()
    assert totals["steps"] == 10
    assert totals["samples"] == 40
    assert totals["tokens"] == metrics(run)[-1]["tokens"]
    assert totals["flops"] > 6 * totals["tokens"] * 30_000
    assert totals["peak_memory_bytes"] > 50 << 20
    plain = AutoModelForCausalLM.from_pretrained(run.model)
    ours = MTPModel.from_pretrained(run.model)
    ids = torch.tensor([[1, 20, 30]])
    assert torch.equal(plain.eval()(ids).logits, ours.eval()(ids).logits)
    assert ours.num_heads == 3
    points = [record["step"] for record in metrics(run) if "eval/ce/head_0" in record]
    assert points == [0, 5, 10]
    report = json.loads((run.evaluation("held-out") / "report.json").read_text())
    ce = report["metrics"]["ce/head_0"]
    assert ce["low"] <= ce["value"] <= ce["high"]
    assert ce["value"] == pytest.approx(metrics(run)[-1]["eval/ce/head_0"], rel=1e-6)
    assert report["metrics"]["perplexity"]["value"] == pytest.approx(np.exp(ce["value"]))
    samples = json.loads(run.weights.read_text())["samples"]
    assert any(any(sample["fault"]) for sample in samples)
    for sample in samples:
        assert len(sample["tokens"]) == len(sample["weights"]) == len(sample["fault"])
        assert sample["weights"][-1] == [1.0, 1.0, 1.0]
    assert not run.checkpoints.exists()


def test_same_seed_same_numbers_whatever_the_micro_batch(data: Path, tmp_path: Path) -> None:
    one = train(recipe(data), environment(tmp_path / "a"))
    two = train(recipe(data), environment(tmp_path / "b", micro_batch=1, dataloader_workers=1))
    a = [r["train/loss"] for r in metrics(one) if "train/loss" in r]
    b = [r["train/loss"] for r in metrics(two) if "train/loss" in r]
    np.testing.assert_allclose(a, b, rtol=1e-4)
    other = train(recipe(data, seed=1), environment(tmp_path / "c"))
    assert [r["train/loss"] for r in metrics(other) if "train/loss" in r] != a


def test_packing_changes_the_layout_alone(data: Path, tmp_path: Path) -> None:
    found = []
    for packing, micro_batch in (("none", None), ("best_fit", 1)):
        document = recipe(data)
        document.override(
            [
                f"data.packing={packing}",
                "data.template=alpaca",
                "data.max_length=400",
                "data.pad_to_multiple_of=16",
                "model.architecture.max_positions=400",
                "optimization.steps=4",
            ]
        )
        run = train(document, environment(tmp_path / packing, micro_batch=micro_batch))
        losses = [r["train/loss"] for r in metrics(run) if "train/loss" in r]
        found.append((losses, run.totals()["tokens"], run.totals()["samples"]))
        assert template_of(load_tokenizer(run.model)) == "alpaca"
    (padded, *of_padded), (packed, *of_packed) = found
    assert len(padded) == 2
    np.testing.assert_allclose(packed, padded, rtol=1e-4)
    assert of_packed == of_padded


def test_a_mixture_with_pairs_and_a_curriculum_trains(data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    display = Display()
    display.say = said.append  # type: ignore[method-assign]
    settings = {
        "max_length": 64,
        "pairs": True,
        "max_length_ratio": 2.0,
        "curriculum": {"schedule": "sqrt"},
        "mixture": [
            {"source": "jsonl", "name": "mine", "path": str(data), "weight": 0.75},
            {"source": "jsonl", "name": "theirs", "path": str(data), "weight": 0.25},
        ],
        "limit": 60,
    }
    document = recipe(data, data=settings)
    run = train(document, environment(tmp_path), display=display)
    assert run.totals()["samples"] == 40
    last = metrics(run)[-1]
    assert last["eval/ce/source/mine"] != last["eval/ce/source/theirs"]
    assert any(" pairs; " in line for line in said)
    assert any("length alone tells incorrect completions with AUC 0." in line for line in said)
    again = load_document(run.recipe).validate(Recipe)
    assert again == document.validate(Recipe)


class StopAt(Display):
    """Presses Ctrl-C when training has reached a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stage(self, title):
        from contextlib import contextmanager

        @contextmanager
        def press():
            def update(done, total, note=""):
                if title == "run" and done >= self.step:
                    raise KeyboardInterrupt

            yield update

        return press()


def test_an_interrupted_run_resumes_to_the_same_numbers(data: Path, tmp_path: Path) -> None:
    whole = train(recipe(data), environment(tmp_path / "whole"))
    where = environment(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        train(recipe(data), where, display=StopAt(6))
    run = RunFolder(tmp_path / "cut" / "run")
    assert run.totals() is None
    with pytest.raises(CheckpointError, match="its training is not complete"):
        model_folder(run.path)
    with pytest.raises(OutputError, match="a run is there already. Add --resume"):
        train(recipe(data), where)
    resumed = train(recipe(data), where, resume=True)
    keys = ("step", "tokens", "train/loss", "eval/ce/head_1")
    assert [{k: r.get(k) for k in keys} for r in metrics(resumed)] == [
        {k: r.get(k) for k in keys} for r in metrics(whole)
    ]
    ours = MTPModel.from_pretrained(resumed.model).state_dict()
    theirs = MTPModel.from_pretrained(whole.model).state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    record = json.loads(resumed.provenance.read_text())
    assert len(record["resumed"]) == 1
    assert record["time"] <= record["resumed"][0]["time"]
    before = {path: path.stat().st_mtime_ns for path in resumed.path.rglob("*")}
    train(recipe(data), environment(tmp_path / "cut", threads=1), resume=True)
    assert {path: path.stat().st_mtime_ns for path in resumed.path.rglob("*")} == before


def test_another_recipe_in_the_same_folder_is_refused(data: Path, tmp_path: Path) -> None:
    where = environment(tmp_path)
    train(recipe(data), where)
    changed = recipe(data)
    changed.override(["optimization.learning_rate=0.02"])
    with pytest.raises(OutputError, match=r"optimization.learning_rate: 0.01 there, 0.02 now"):
        train(changed, where, resume=True)


def test_a_second_process_is_refused(data: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        other = "from wmtp.outputs import locked\nwith locked('run'): pass"
        found = subprocess.run(
            [sys.executable, "-c", other], cwd=tmp_path, capture_output=True, text=True
        )
        assert "OutputError: run: another process is at work there" in found.stderr
        with pytest.raises(OutputError, match="another process is at work there"):
            train(recipe(data), environment(tmp_path))
    assert not (tmp_path / "run").exists()
    train(recipe(data), environment(tmp_path))


def test_files_of_others_are_not_taken_for_a_run(data: Path, tmp_path: Path) -> None:
    run = train(recipe(data), environment(tmp_path))
    run.recipe.unlink()
    with pytest.raises(OutputError, match=r"files but no recipe\.yaml"):
        train(recipe(data), environment(tmp_path), resume=True)


@pytest.mark.parametrize(
    ("text", "message"), [("", "not valid JSON"), ("[]", "expected a JSON object, found list")]
)
def test_damaged_totals_are_refused(data: Path, tmp_path: Path, text: str, message: str) -> None:
    run = train(recipe(data), environment(tmp_path))
    run.summary.write_text(text)
    with pytest.raises(DataError, match=rf"run\.json: {message}"):
        train(recipe(data), environment(tmp_path), resume=True)


@pytest.mark.parametrize("kilobytes", [60, 300, 700])
def test_a_full_disk_in_mid_training(data: Path, tmp_path: Path, kilobytes: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={kilobytes}k"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)]).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        where = environment(disk, checkpoint={"every_steps": 1}, log_every_steps=1)
        with pytest.raises(OutputError, match="the disk is full. Free some space"):
            train(recipe(data), where)
        left = [path for path in disk.rglob("*") if ".partial" in path.name]
        assert left == []
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        whole = train(recipe(data), environment(tmp_path / "whole", log_every_steps=1))
        resumed = train(recipe(data), where, resume=True)
        assert [r["train/loss"] for r in metrics(resumed) if "train/loss" in r] == [
            r["train/loss"] for r in metrics(whole) if "train/loss" in r
        ]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_rho1_and_its_shuffle_from_a_reference(data: Path, tmp_path: Path) -> None:
    where = environment(tmp_path)
    reference = train(recipe(data, name="reference"), where)
    tokenizer = {"pretrained": str(reference.model)}
    own = {"name": "rho1-wmtp", "reference": str(reference.path), "always_keep_head_0": False}
    rho1 = train(recipe(data, name="rho1", tokenizer=tokenizer, algorithm=own), where)
    log = next(r for r in metrics(rho1) if "train/loss" in r)
    assert 0.2 < log["train/weight/zero_share/head_0"] < 0.6
    assert len(list((tmp_path / "cache").glob("ref_ce-*.safetensors"))) == 2
    totals = rho1.totals()
    assert totals["extra_flops"]["reference"] > reference.totals()["flops"]
    assert totals["flops"] > totals["extra_flops"]["reference"] + 1e6
    shuffle = {"name": "shuffled", "of": own}
    shuffled = train(recipe(data, name="s", tokenizer=tokenizer, algorithm=shuffle), where)
    assert shuffled.totals()["tokens"] == rho1.totals()["tokens"]
    assert len(list((tmp_path / "cache").glob("ref_ce-*.safetensors"))) == 2
    with pytest.raises(CheckpointError, match="is not the policy's"):
        train(recipe(data, name="other", algorithm=own, tokenizer={"vocab_size": 270}), where)


def test_an_earlier_checkpoint_of_the_policy_is_its_reference(data: Path, tmp_path: Path) -> None:
    """A checkpoint of a run that goes on is a whole model folder, tokenizer included."""
    where = environment(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(data), where, display=StopAt(7))
    checkpoint = str(tmp_path / "run" / "checkpoints" / "checkpoint-4")
    own = {"name": "rho1-wmtp", "reference": checkpoint, "select_by": "token", "keep": 0.5}
    model = {"pretrained": checkpoint, "num_heads": 3}
    document = recipe(data, name="after", algorithm=own, model=model, tokenizer={})
    document.override(["optimization.steps=3", "optimization.learning_rate=1e-9"])
    run = train(document, where)
    logged = [line for line in metrics(run) if "train/loss" in line]
    assert 0.3 < logged[0]["train/weight/zero_share/head_1"] < 0.6
    assert logged[0]["train/weight/zero_share/head_0"] == 0
    assert run.totals()["extra_flops"]["reference"] > 0


def test_critic_trains_and_logs_its_value(data: Path, tmp_path: Path) -> None:
    algorithm = {"name": "critic-wmtp", "trunk": "trained", "value_phase": {"policy_loss": True}}
    run = train(recipe(data, algorithm=algorithm), environment(tmp_path))
    logged = metrics(run)
    assert "train/value/explained_variance" in logged[2]
    assert 0 <= logged[-1]["eval/value/auc"] <= 1
    model = MTPModel.from_pretrained(run.model)
    assert model.value_head.kind == "linear"
    # A run goes on from another's checkpoint, heads and all.
    again = recipe(data, name="next", model={"num_heads": 3, "pretrained": str(run.path)})
    del again.data["tokenizer"]
    assert train(again, environment(tmp_path)).totals()["steps"] == 10


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"algorithm": {"name": "rho1-wmpt"}}, ConfigError, "Did you mean 'rho1-wmtp'"),
        ({"algorithm": {"name": "mtp-baseline", "keep": 1}}, ConfigError, "keep"),
        (
            {"data": {"source": "jsonl", "path": "absent.jsonl", "max_length": 64}},
            DataError,
            "absent.jsonl",
        ),
    ],
)
def test_bad_settings(data, tmp_path, changes, error, message) -> None:
    with pytest.raises(error, match=message):
        train(recipe(data, **changes), environment(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["data.incorrect_share=0", "algorithm={name: critic-wmtp}"], ConfigError, "learns values"),
        (["data.max_length=4"], DataError, "have no target within data.max_length 4"),
        (["data.validation_split=test"], DataError, "test"),
        (
            ["data.incorrect_share=0", "algorithm={name: oracle, of: {name: focal}}"],
            ConfigError,
            "algorithm oracle needs known faults",
        ),
        (["optimization.head_coefficients={values: [1, 0.3]}"], ConfigError, "has 2 numbers"),
        (
            ["optimization.head_coefficients={values: [1, 1, 1], decay_end: 0.5}"],
            ConfigError,
            "say when `final` comes",
        ),
        (["model={num_heads: 2, pretrained: nowhere}", "tokenizer=null"], Exception, "nowhere"),
    ],
)
def test_what_does_not_fit_together(data, tmp_path, settings, error, message) -> None:
    document = recipe(data)
    document.override(settings)
    if document.data.get("tokenizer") is None:
        del document.data["tokenizer"]
    with pytest.raises(error, match=message):
        train(document, environment(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_horizon_is_refused(data: Path, tmp_path: Path) -> None:
    run = train(recipe(data), environment(tmp_path))
    document = recipe(data, name="other", model={"num_heads": 2, "pretrained": str(run.path)})
    del document.data["tokenizer"]
    with pytest.raises(ConfigError, match="num_heads is 2, but the checkpoint .* has 3 heads"):
        train(document, environment(tmp_path))


def test_micro_batches_must_divide(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"micro_batch 3 does not divide .* one of \[1, 2, 4\]"):
        train(recipe(data), environment(tmp_path, micro_batch=3))
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there(data: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="device: cuda is not available"):
        train(recipe(data), environment(tmp_path, device="cuda"))


def test_an_output_folder_that_cannot_be(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        train(recipe(data), environment(tmp_path / "file"))


needs_isolation = pytest.mark.skipif(
    probe().tier is None, reason="no isolation for programs on this machine"
)


@pytest.fixture(scope="module")
def mbpp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three problems in MBPP's format."""
    path = tmp_path_factory.mktemp("mbpp") / "mbpp.jsonl"
    lines = [
        {
            "text": f"Write a function to add {i}.",
            "code": f"def add(x):\r\n    return x + {i}",
            "task_id": i,
            "test_setup_code": "",
            "test_list": [f"assert add(1) == {1 + i}", f"assert add(2) == {2 + i}"],
            "challenge_test_list": [],
        }
        for i in (11, 12, 13)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@needs_isolation
def test_evaluation_of_a_run(data: Path, mbpp: Path, tmp_path: Path) -> None:
    run = train(recipe(data), environment(tmp_path))
    where = environment(tmp_path, sandbox={"workers": 1})
    document = evaluation_document(run.path, "mbpp", str(mbpp), None, ["max_new_tokens=8"])
    folder = evaluate(run.path, document, where)
    assert folder == run.evaluation("mbpp")
    report = json.loads((folder / "report.json").read_text())
    assert report["metrics"]["pass@1"]["value"] == 0.0
    assert report["metrics"]["pass@1"]["high"] > 0.3
    assert report["outcomes"] == {"failed": 3}
    assert report["sandbox"] in ("namespaces", "bubblewrap")
    samples = (folder / "samples.jsonl").read_bytes()
    with locked(folder), pytest.raises(OutputError, match="another process is at work there"):
        evaluate(run.path, document, where)
    evaluate(run.path, document, where)
    assert (folder / "samples.jsonl").read_bytes() == samples
    page = write_page(run.path, folder)
    assert "pass@1" in page.read_text()
    # The same weights at another place are the same evaluation; other prompts are not.
    moved = run.path.rename(tmp_path / "moved")
    moved_folder = moved / "evaluation" / "mbpp"
    evaluate(moved, document, where, output=moved_folder)
    assert (moved_folder / "samples.jsonl").read_bytes() == samples
    moved.rename(run.path)
    text = mbpp.read_text()
    mbpp.write_text(text.replace("to add 11", "to add eleven"))
    with pytest.raises(OutputError, match=r"other settings is there \(prompts: "):
        evaluate(run.path, document, where)
    mbpp.write_text(text)
    other = evaluation_document(run.path, "mbpp", str(mbpp), None, ["max_new_tokens=9"])
    with pytest.raises(OutputError, match="max_new_tokens: 8 there, 9 now"):
        evaluate(run.path, other, where)
    # Sampling several times, resumed in the middle, draws the same.
    drawn = evaluation_document(run.path, "mbpp", str(mbpp), "sample-10", ["max_new_tokens=8"])
    whole = evaluate(run.path, drawn, where, output=tmp_path / "whole")
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    lines = (whole / "samples.jsonl").read_text().splitlines(keepends=True)
    (cut / "samples.jsonl").write_text("".join(lines[:7]) + lines[7][:20])
    evaluate(run.path, drawn, where, output=cut)
    assert (cut / "samples.jsonl").read_text() == "".join(lines)


@needs_isolation
def test_a_refused_evaluation_leaves_nothing_behind(data: Path, mbpp: Path, tmp_path: Path) -> None:
    run = train(recipe(data), environment(tmp_path))
    where = environment(tmp_path, sandbox={"workers": 1})
    document = evaluation_document(run.path, "mbpp", str(mbpp), None, ["max_new_tokens=1000"])
    with pytest.raises(DataError, match="1000 new ones do not fit"):
        evaluate(run.path, document, where)
    assert not run.evaluation("mbpp").exists()
    samples = tmp_path / "samples.jsonl"
    samples.write_text('{"task_id": "mbpp/111", "completion": ""}\n')
    with pytest.raises(DataError, match=r"samples\.jsonl:1: this benchmark has no task 'mbpp/111'"):
        judge_samples(samples, document, where, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    document = evaluation_document(None, "minicode", None, None, ["num_problems=1"])
    with pytest.raises(DataError, match="minicode: no task with these settings"):
        evaluate(run.path, document, where)
    run.evaluation("mbpp").mkdir(parents=True)
    (run.evaluation("mbpp") / "settings.json").write_text("")
    document = evaluation_document(run.path, "mbpp", str(mbpp), None, ["max_new_tokens=8"])
    with pytest.raises(DataError, match=r"settings\.json: not valid JSON"):
        evaluate(run.path, document, where)


@needs_isolation
def test_judging_samples_of_others(mbpp: Path, tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    right = {"task_id": "mbpp/11", "completion": "def add(x):\n    return x + 11"}
    wrong = {"task_id": "mbpp/12", "completion": "def add(x):\n    return x"}
    samples.write_text("".join(json.dumps(s) + "\n" for s in (right, wrong)))
    document = evaluation_document(None, "mbpp", str(mbpp), None, [])
    report = judge_samples(
        samples, document, environment(tmp_path, sandbox={"workers": 1}), output=tmp_path / "out"
    )
    assert report["metrics"]["pass@1"]["value"] == 0.5
    assert report["metrics"]["pass@1"]["n"] == 2
    with (
        locked(tmp_path / "out"),
        pytest.raises(OutputError, match="another process is at work there"),
    ):
        judge_samples(samples, document, environment(tmp_path), output=tmp_path / "out")


def test_a_checkpoint_must_be_there(tmp_path: Path) -> None:
    """Said before anything about a benchmark, which its recipe would name."""
    with pytest.raises(CheckpointError, match="absent: no such folder"):
        evaluation_document(tmp_path / "absent", None, None, None, [])


def test_a_benchmark_must_be_named() -> None:
    with pytest.raises(ConfigError, match="--benchmark is missing. Known: minicode, mbpp"):
        evaluation_document(None, None, None, None, [])


def test_a_refused_tracking_store_or_loss_leaves_no_run(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    store = tmp_path / "store"
    store.write_text("no database")
    for changes, message in (
        ({"tracking": {"uri": f"sqlite:///{store}"}}, "store"),
        ({"loss_backend": "cut-cross-entropy"}, "its kernels need a GPU"),
    ):
        refusing = environment(tmp_path, **changes)
        with pytest.raises(ConfigError, match=message):
            train(recipe(data), refusing, output=output)
        assert not RunFolder(output).recipe.exists()
    train(recipe(data), environment(tmp_path), output=output)
