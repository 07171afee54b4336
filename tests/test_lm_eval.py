"""Tasks for lm_eval: what they ask, how they judge, and lm_eval itself on an exported checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedTokenizerBase
from typer.testing import CliRunner

from tests.test_pipeline import environment, recipe
from tests.tiny import child_environment
from wmtp.cli import app
from wmtp.data.encode import prompt_ids
from wmtp.data.example import Example
from wmtp.data.sources.jsonl import write_examples
from wmtp.data.templates import use_template
from wmtp.data.tokenizer import train_tokenizer
from wmtp.errors import DataError, SandboxError, WmtpError
from wmtp.evaluation.answers import AnswerJudge
from wmtp.pipeline import lm_eval
from wmtp.pipeline.benchmark import evaluation_document
from wmtp.pipeline.convert import convert
from wmtp.pipeline.evaluate import evaluate
from wmtp.pipeline.lm_eval import write_lm_eval_tasks
from wmtp.pipeline.train import train
from wmtp.sandbox import Verdict, probe

PROMPT = "def f(x):\n"


class Functions(yaml.SafeLoader):
    """Reads the names of functions as texts."""


Functions.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def read(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(file.read_text(), Functions)
    return loaded


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    records = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(3)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return tmp_path


def test_a_task_has_the_protocol_and_settings_of_the_evaluation(
    questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(questions)
    command = ["lm-eval", "--benchmark", "gsm8k", "--data", ".", "--protocol", "meta-mtp"]
    command += ["--set", "num_shots=0", "--set", "limit=2", "--output", "tasks"]
    done = CliRunner().invoke(app, [*command, "--sandbox", "limits-only", "--workers", "3"])
    assert done.exit_code == 0, done.output
    files = sorted(Path("tasks").glob("*.yaml"))
    assert len(files) == 6
    task = read(files[0])
    assert task["task"] == files[0].stem == "wmtp_gsm8k_meta-mtp_0.2"
    assert task["tag"] == "wmtp_gsm8k_meta-mtp"
    assert task["repeats"] == 200
    assert task["generation_kwargs"] == {
        "until": ["\nQuestion:"],
        "max_gen_toks": 512,
        "do_sample": True,
        "temperature": 0.2,
        "top_p": 0.95,
        "top_k": 0,
    }
    assert [metric["metric"] for metric in task["metric_list"]] == ["pass@1", "pass@10", "pass@100"]
    evaluation = json.loads(task["dataset_kwargs"]["evaluation"])
    assert evaluation["settings"]["path"] == str(questions)  # whatever folder lm_eval runs in
    assert evaluation["sandbox"] == {"mode": "limits-only", "workers": 3}
    refused = CliRunner().invoke(app, [*command, "--set", "num_shot=1"])
    assert refused.exit_code == 2
    assert "num_shot" in refused.stderr


def test_completions_are_judged_and_counted_by_document(
    questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = evaluation_document(None, "gsm8k", str(questions), "sample-10", ["num_shots=0"])
    write_lm_eval_tasks(document, environment(questions), questions)
    task = read(questions / "wmtp_gsm8k_sample-10.yaml")
    docs = [
        {"task_id": f"gsm8k/test/{n}", "evaluation": task["dataset_kwargs"]["evaluation"]}
        for n in (2, 0)
    ]
    completions = [["#### 3"] * 4 + ["#### 4"] * 6, ["?"] * 10]
    judged = lm_eval.outcomes(completions, docs)
    assert judged == [["passed"] * 4 + ["failed"] * 6, ["failed"] * 10]
    rates = lm_eval.pass_rates(docs[0], judged[:1])
    assert rates["pass@1"] == pytest.approx(0.4)
    assert rates["pass@5"] == pytest.approx(1 - 6 / 252)
    with pytest.raises(WmtpError, match="pass@5 needs at least 5 samples"):
        lm_eval.pass_rates(docs[0], [["passed"]])
    monkeypatch.setattr(
        AnswerJudge,
        "judge",
        lambda *_: iter([(i, Verdict("error", 0.0, "gone")) for i in range(20)]),
    )
    with pytest.raises(
        SandboxError, match=r"sample 0 of task gsm8k/test/2 could not be judged \(gone\)"
    ):
        lm_eval.outcomes(completions, docs)


def tokens_of_lm_eval(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """As `HFLM.tok_batch_encode` of lm_eval 0.4.13."""
    bos = tokenizer.bos_token
    special = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
    ids: list[int] = tokenizer(text, **special)["input_ids"]
    return ids


@pytest.mark.parametrize("kind", ["adds its start", "does not", "only an end", "alpaca", "chat"])
def test_prompts_become_the_tokens_of_wmtp_eval(kind: str) -> None:
    tokenizer = train_tokenizer([PROMPT] * 2, 270)
    if kind in ("does not", "only an end"):
        tokenizer.backend_tokenizer.post_processor = None
    if kind == "only an end":
        tokenizer.bos_token = None
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    if kind in ("alpaca", "chat"):
        use_template(tokenizer, kind)
    text = lm_eval._framed(PROMPT, tokenizer, "t/0")
    assert tokens_of_lm_eval(text, tokenizer) == prompt_ids(PROMPT, tokenizer)
    assert text.startswith("<s>") == (kind in ("does not", "chat"))


def test_a_tokenizer_that_adds_something_else_is_refused() -> None:
    tokenizer = train_tokenizer([PROMPT] * 2, 270)
    tokenizer.bos_token = None  # what its post-processor adds is not what sequences begin with
    with pytest.raises(DataError, match="other tokens for the prompt of t/0"):
        lm_eval._framed(PROMPT, tokenizer, "t/0")


@pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="lm_eval (extra `lm-eval`) is not installed"
)
@pytest.mark.skipif(probe().tier is None, reason="no isolation for programs on this machine")
def test_lm_eval_finds_what_wmtp_eval_finds(tmp_path: Path) -> None:
    """On a model that has learned two right solutions and a wrong one by heart."""
    problems = tmp_path / "mbpp.jsonl"
    records = [
        {
            "text": f"Add {i}.",
            "code": f"def add(x):\r\n    return x + {i}",
            "task_id": i,
            "test_setup_code": "",
            "test_list": [f"assert add(1) == {1 + i}"],
            "challenge_test_list": [],
        }
        for i in (11, 12, 13)
    ]
    problems.write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = ["max_new_tokens=24"]
    document = evaluation_document(None, "mbpp", str(problems), None, settings)
    tasks = lm_eval.choose(document).tasks
    learned = [
        Example(t.task_id, t.prompt, str(t.reference).replace("x + 13", "None"), split="train")
        for t in tasks
    ]
    write_examples(tmp_path / "data.jsonl", learned)
    training = recipe(
        tmp_path / "data.jsonl",
        data={
            "source": "jsonl",
            "path": str(tmp_path / "data.jsonl"),
            "max_length": 128,
            "validation_split": None,
        },
        optimization={"learning_rate": 1e-2, "global_batch": 3, "steps": 120},
    )
    where = environment(tmp_path, sandbox={"workers": 1})
    run = train(training, where)
    ours = evaluate(run.path, document, where)
    exported = tmp_path / "exported"
    convert("hf", run.path, exported)
    (name,) = write_lm_eval_tasks(document, where, tmp_path / "tasks", exported)
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={exported},dtype=float32", "--tasks", name]
    command += ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--log_samples"],
        env=child_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = (tmp_path / "out").glob("*/results_*.json")
    result = json.loads(found.read_text())["results"][name]
    report = json.loads((ours / "report.json").read_text())
    assert result["pass@1,wmtp"] == report["metrics"]["pass@1"]["value"] == pytest.approx(2 / 3)
    lines = {
        stage: [json.loads(line) for line in (ours / f"{stage}.jsonl").read_text().splitlines()]
        for stage in ("samples", "outcomes")
    }
    (logged,) = (tmp_path / "out").glob("*/samples_*.jsonl")
    theirs = {
        entry["doc"]["task_id"]: (entry["resps"][0][0], entry["filtered_resps"][0])
        for entry in map(json.loads, logged.read_text().splitlines())
    }
    completions = {sample["task_id"]: sample["completion"] for sample in lines["samples"]}
    outcomes = {outcome["task_id"]: outcome["outcome"] for outcome in lines["outcomes"]}
    assert theirs == {task_id: (completions[task_id], [outcomes[task_id]]) for task_id in outcomes}
    assert sorted(outcomes.values()) == ["failed", "passed", "passed"]
