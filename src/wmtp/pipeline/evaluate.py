"""Evaluate a checkpoint on a benchmark: from settings to samples, outcomes and reports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from wmtp.config.environment import Environment
from wmtp.config.load import Document
from wmtp.config.protocols import Protocol
from wmtp.data.templates import frame
from wmtp.data.tokenizer import load_tokenizer
from wmtp.display import Display
from wmtp.evaluation.benchmark import Judge, Task
from wmtp.evaluation.generate import encode_prompts, generate_samples
from wmtp.evaluation.grid import write_grid_report
from wmtp.evaluation.run import judge_and_report
from wmtp.evaluation.vllm_model import VllmModel, load_vllm
from wmtp.modeling.mtp import MTPModel
from wmtp.outputs import claim, locked
from wmtp.pipeline.benchmark import LOSS, Chosen, choose
from wmtp.pipeline.held_out import evaluate_loss
from wmtp.pipeline.model import model_to_measure
from wmtp.report.judged import write_evaluation_page
from wmtp.report.page import write_report
from wmtp.run_folder import RunFolder, model_folder
from wmtp.training.arguments import resolve_device


def evaluate(
    checkpoint: Path,
    document: Document,
    environment: Environment,
    *,
    seed: int = 0,
    output: Path | None = None,
    display: Display | None = None,
) -> Path:
    """Draw completions for the benchmark's tasks, judge them, and return the folder of the report.

    `checkpoint` is a run or model folder. Every stage resumes in the same folder. The benchmark `loss`
    draws nothing: see `evaluate_loss`.
    """
    display = display or Display()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if document.data.get("benchmark") == LOSS:
        return evaluate_loss(checkpoint, document, environment, output=output, display=display)
    chosen = choose(document)
    folder = model_folder(checkpoint)
    run = RunFolder(folder.parent if folder != checkpoint else checkpoint)
    output = output or run.evaluation(chosen.name)
    # The isolation is looked for before hours of sampling, not after.
    with (
        closing(chosen.judge(environment.sandbox)) as judge,
        _model(folder, environment) as model,
    ):
        tokenizer = load_tokenizer(folder)
        encode_prompts(model, tokenizer, chosen.tasks, chosen.max_new_tokens)
        settings = _settings(folder, chosen, tokenizer, environment, seed)
        shown = {"checkpoint": str(checkpoint), **settings}

        measure = _Measurement(
            model, tokenizer, chosen, judge, seed, environment.generation.rows, shown, display
        )
        # Last of all checks, so that a command that is refused leaves nothing behind.
        with locked(output):
            claim(output, settings, "an evaluation")
            if not chosen.protocol.grid:
                measure(chosen.protocol, output)
                return output
            parts = {t: output / f"temperature-{t:g}" for t in chosen.protocol.grid}
            for temperature, part in parts.items():
                part.mkdir(exist_ok=True)
                measure(chosen.protocol.at(temperature), part)
            write_grid_report(output, parts, shown)
    return output


@dataclass(frozen=True)
class _Measurement:
    """What draws and judges samples, at whatever temperature; `shown` are the settings of its reports."""

    model: MTPModel | VllmModel
    tokenizer: PreTrainedTokenizerBase
    chosen: Chosen
    judge: Judge
    seed: int
    rows: int | None
    shown: dict[str, Any]
    display: Display

    def __call__(self, protocol: Protocol, folder: Path) -> None:
        """Write samples, outcomes and report into `folder`; what is there already stays."""
        chosen = self.chosen
        with self.display.stage("generate") as update:
            samples = generate_samples(
                self.model,
                self.tokenizer,
                chosen.tasks,
                protocol,
                folder / "samples.jsonl",
                stop=chosen.benchmark.stop,
                max_new_tokens=chosen.max_new_tokens,
                seed=self.seed,
                rows=self.rows,
                progress=update,
            )
        judge_and_report(
            samples,
            chosen.benchmark,
            chosen.tasks,
            protocol.ks,
            self.judge,
            folder,
            {**self.shown, "temperature": protocol.temperature},
            self.display,
            chosen.section.extraction,
        )


def write_page(checkpoint: Path, evaluation: Path) -> Path:
    """Write the page that shows the folder `evaluation`: that of the run around it, or its own.

    Returns its path; a held-out loss outside of a run has only its `report.json`.
    """
    inside = evaluation.resolve().is_relative_to(checkpoint.resolve())
    if inside and RunFolder(checkpoint).totals() is not None:
        return write_report([checkpoint], checkpoint, title=checkpoint.name)
    if not (evaluation / "outcomes.jsonl").is_file():
        return evaluation / "report.json"
    return write_evaluation_page(evaluation, checkpoint.name)


@contextmanager
def _model(folder: Path, environment: Environment) -> Iterator[MTPModel | VllmModel]:
    """Yield the model in `folder`, where and how the environment has it draw completions."""
    if environment.generation.backend == "vllm":
        with load_vllm(folder, environment.precision) as engine:
            yield engine
        return
    yield model_to_measure(folder, resolve_device(environment.device))


def _settings(
    folder: Path,
    chosen: Chosen,
    tokenizer: PreTrainedTokenizerBase,
    environment: Environment,
    seed: int,
) -> dict[str, Any]:
    """Return all that decides what is drawn and judged, of which a folder holds one set."""
    settings = {
        "weights": _weights_hash(folder),
        "seed": seed,
        **chosen.section.model_dump(mode="json"),
        "prompts": _prompts_hash(chosen.tasks, tokenizer),
    }
    if environment.generation.backend != "transformers":  # its samples are other ones
        settings["backend"] = environment.generation.backend
    return settings


def _prompts_hash(tasks: list[Task], tokenizer: PreTrainedTokenizerBase) -> str:
    text = json.dumps([(task.task_id, frame(task.prompt, tokenizer).before) for task in tasks])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _weights_hash(folder: Path) -> str:
    state = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            state.update(hashlib.file_digest(stream, "sha256").digest())
    return state.hexdigest()[:16]
