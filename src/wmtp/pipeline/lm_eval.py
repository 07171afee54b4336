"""Tasks for lm_eval (EleutherAI's lm-evaluation-harness), asked and judged as `wmtp eval` does.

A task is one YAML file that holds the settings of an evaluation and names the functions below, which
lm_eval imports and calls: `documents` for the prompts, `outcomes` to judge all completions of a run
together, outside its own process, and `pass_rates` for the scores of one task.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from transformers import PreTrainedTokenizerBase

from wmtp.config.environment import Environment, SandboxSection
from wmtp.config.load import Document
from wmtp.config.protocols import Protocol
from wmtp.data.encode import prompt_ids
from wmtp.data.templates import frame
from wmtp.data.tokenizer import load_tokenizer, start_token
from wmtp.errors import DataError, SandboxError
from wmtp.evaluation.judge import judge
from wmtp.evaluation.metrics import pass_at_k
from wmtp.outputs import atomic_write_text
from wmtp.pipeline.benchmark import Chosen, choose
from wmtp.run_folder import model_folder

_HEADER = "# Written by `wmtp lm-eval`; wmtp must be installed beside lm_eval.\n"
_FUNCTIONS = f"""\
custom_dataset: !function {__name__}.documents
filter_list:
- name: wmtp
  filter:
  - function: custom
    filter_fn: !function {__name__}.outcomes
process_results: !function {__name__}.pass_rates
"""


def write_lm_eval_tasks(
    document: Document, environment: Environment, output: Path, checkpoint: Path | None = None
) -> list[str]:
    """Write one task file for each temperature of the protocol into `output`; return their names.

    `checkpoint` is the run or model folder whose prompt template and start token the prompts have, so
    that lm_eval gives the model the very tokens that `wmtp eval` does; where it cannot, that is a
    `DataError`. Without one the prompts are bare, for any model, and lm_eval's own options say how they
    are framed.
    """
    chosen = choose(document)
    settings = chosen.section.model_dump(
        mode="json", exclude_none=True, exclude={"held_out_points", "held_out_limit"}
    )
    if "path" in settings:
        settings["path"] = str(Path(settings["path"]).absolute())
    model = None if checkpoint is None else str(model_folder(checkpoint).absolute())
    _prompts(chosen, model)  # what is wrong with them is said now
    evaluation = json.dumps(
        {"settings": settings, "sandbox": environment.sandbox.model_dump(), "model": model}
    )
    base = f"wmtp_{chosen.name}_{chosen.protocol.name}"
    names = []
    for temperature in chosen.protocol.grid or (chosen.protocol.temperature,):
        name = f"{base}_{temperature:g}" if chosen.protocol.grid else base
        task = _task(chosen, chosen.protocol.at(temperature), evaluation)
        task = (
            {"task": name, "tag": base, **task} if chosen.protocol.grid else {"task": name, **task}
        )
        text = yaml.safe_dump(task, sort_keys=False, allow_unicode=True)
        atomic_write_text(output / f"{name}.yaml", _HEADER + text + _FUNCTIONS)
        names.append(name)
    return names


def _task(chosen: Chosen, protocol: Protocol, evaluation: str) -> dict[str, Any]:
    """Return the plain part of a task's YAML."""
    drawn = protocol.temperature > 0
    # Other models' generation_config.json may have a top_k, which no protocol of ours has.
    sampling = {"temperature": protocol.temperature, "top_p": protocol.top_p, "top_k": 0}
    return {
        "output_type": "generate_until",
        "test_split": "test",
        "dataset_kwargs": {"evaluation": evaluation},
        "doc_to_text": "prompt",
        "doc_to_target": "task_id",
        "num_fewshot": 0,
        "repeats": protocol.num_samples,
        "generation_kwargs": {
            "until": list(chosen.benchmark.stop),
            "max_gen_toks": chosen.max_new_tokens,
            "do_sample": drawn,
            **(sampling if drawn else {}),
        },
        "metric_list": [
            {"metric": f"pass@{k}", "aggregation": "mean", "higher_is_better": True}
            for k in protocol.ks
        ],
        "metadata": {"version": 1},
    }


def documents(*, evaluation: str, **_others: Any) -> dict[str, Any]:
    """Return the split `test` of a task; called by lm_eval with what its file and command line give.

    evaluation: the settings in the task's file, which every document carries on to `outcomes`.
    """
    from datasets import Dataset  # comes with lm_eval

    chosen, _, model = _evaluation(evaluation)
    records = [
        {"task_id": task.task_id, "prompt": prompt, "evaluation": evaluation}
        for task, prompt in zip(chosen.tasks, _prompts(chosen, model), strict=True)
    ]
    return {"test": Dataset.from_list(records)}


def outcomes(completions: Iterable[list[str]], docs: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Return the outcomes of each document's completions, as the filter of lm_eval that they are.

    All are judged together, as `wmtp judge` does. Samples that cannot be judged are a `SandboxError`.
    """
    asked = list(docs)
    chosen, isolation, _ = _evaluation(asked[0]["evaluation"])
    samples = [
        {"task_id": doc["task_id"], "completion": text}
        for doc, texts in zip(asked, completions, strict=True)
        for text in texts
    ]
    with closing(chosen.judge(isolation)) as sandbox:
        found = judge(
            samples,
            chosen.benchmark,
            sandbox=sandbox,
            tasks=chosen.tasks,
            extraction=chosen.section.extraction,
        )
    by_task: dict[str, list[str]] = {doc["task_id"]: [] for doc in asked}
    for outcome in found:
        if outcome["outcome"] == "error":
            raise SandboxError(
                f"sample {outcome['sample_id']} of task {outcome['task_id']} could not be judged "
                f"({outcome['detail']}). Run lm_eval again with --use_cache, which keeps completions; "
                "`wmtp doctor` shows the state of the sandbox."
            )
        by_task[outcome["task_id"]].append(outcome["outcome"])
    return [by_task[doc["task_id"]] for doc in asked]


def pass_rates(doc: dict[str, Any], results: list[list[str]]) -> dict[str, float]:
    """Return pass@k of one document, whose `outcomes` are the first of `results`."""
    ks = _evaluation(doc["evaluation"]).chosen.protocol.ks
    passed = [outcome == "passed" for outcome in results[0]]
    return {f"pass@{k}": pass_at_k(len(passed), sum(passed), k) for k in ks}


class _Evaluation(NamedTuple):
    """What a task file says. model: the folder of the model whose prompts are asked, or None."""

    chosen: Chosen
    sandbox: SandboxSection
    model: str | None


@cache
def _evaluation(text: str) -> _Evaluation:
    given = json.loads(text)
    chosen = choose(Document("the task of lm_eval", given["settings"]))
    return _Evaluation(chosen, SandboxSection(**given["sandbox"]), given["model"])


def _prompts(chosen: Chosen, model: str | None) -> list[str]:
    if model is None:
        return [task.prompt for task in chosen.tasks]
    tokenizer = load_tokenizer(model)
    return [_framed(task.prompt, tokenizer, task.task_id) for task in chosen.tasks]


def _framed(prompt: str, tokenizer: PreTrainedTokenizerBase, task_id: str) -> str:
    """Return the text of which lm_eval's model `hf` makes the tokens of `prompt` under the template.

    lm_eval lets a tokenizer add its start token, unless the text begins with it.
    """
    before = frame(prompt, tokenizer).before
    wanted = prompt_ids(prompt, tokenizer)
    start = str(tokenizer.decode([start_token(tokenizer)]))
    for text in (before, start + before):
        begins = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        special = {"add_special_tokens": False} if begins else {}
        if tokenizer(text, verbose=False, **special)["input_ids"] == wanted:
            return text
    raise DataError(
        f"{tokenizer.name_or_path}: lm_eval would give the model other tokens for the prompt of {task_id} "
        "than `wmtp eval` does. Leave the model out, and say with lm_eval's options how prompts are framed."
    )
