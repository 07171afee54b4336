"""Evaluate a checkpoint on a benchmark: from settings to samples, outcomes and reports."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from wmtp.config.environment import Environment
from wmtp.config.load import Document, load_document
from wmtp.config.protocols import PROTOCOLS
from wmtp.config.recipe import EvaluationSection, Recipe
from wmtp.data.templates import frame
from wmtp.data.tokenizer import load_tokenizer
from wmtp.display import Display
from wmtp.errors import ConfigError, DataError
from wmtp.evaluation.answers import AnswerJudge
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.evaluation.generate import encode_prompts, generate_samples
from wmtp.evaluation.grid import write_grid_report
from wmtp.evaluation.judge import our_task_id, read_samples
from wmtp.evaluation.run import judge_and_report
from wmtp.evaluation.vllm_model import VllmModel, load_vllm
from wmtp.modeling.mtp import MTPModel
from wmtp.outputs import claim, locked
from wmtp.pipeline.held_out import LOSS, evaluate_loss
from wmtp.pipeline.model import model_to_measure
from wmtp.registry import BENCHMARKS
from wmtp.report.page import write_report
from wmtp.run_folder import RunFolder, model_folder
from wmtp.sandbox import Sandbox
from wmtp.training.arguments import resolve_device


def evaluation_document(
    checkpoint: Path | None,
    benchmark: str | None,
    data: str | None,
    protocol: str | None,
    overrides: Iterable[str],
) -> Document:
    """Return the evaluation settings: those of the run's recipe, then the command line's.

    A recipe whose benchmark is another one gives nothing.
    """
    settings: dict[str, Any] = {}
    recipe_file = None if checkpoint is None else RunFolder(checkpoint).recipe
    if recipe_file is not None and recipe_file.is_file():
        recipe = load_document(recipe_file).validate(Recipe)
        if benchmark in (None, recipe.evaluation.benchmark):
            settings = recipe.evaluation.model_dump(exclude_unset=True)
    given = {"benchmark": benchmark, "path": data, "protocol": protocol}
    settings |= {key: value for key, value in given.items() if value is not None}
    if settings.get("benchmark") is None:
        raise ConfigError(
            f"--benchmark is missing. Known: {', '.join([*BENCHMARKS.names(), LOSS])}."
        )
    document = Document("evaluation", settings)
    document.override(overrides)
    return document


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
    section, benchmark, tasks = _benchmark(document)
    protocol = PROTOCOLS[section.protocol]
    folder = model_folder(checkpoint)
    run = RunFolder(folder.parent if folder != checkpoint else checkpoint)
    output = output or run.evaluation(str(section.benchmark))
    settings = {
        "weights": _weights_hash(folder),
        "seed": seed,
        **section.model_dump(mode="json"),
    }
    if environment.generation.backend != "transformers":  # its samples are other ones
        settings["backend"] = environment.generation.backend
    # The isolation is looked for before hours of sampling, not after.
    with ExitStack() as stack:
        judge = _judge(benchmark, environment)
        stack.enter_context(judge)
        model = stack.enter_context(_model(folder, environment))
        tokenizer = load_tokenizer(folder)
        max_new_tokens = section.max_new_tokens or benchmark.max_new_tokens
        encode_prompts(model, tokenizer, tasks, max_new_tokens)
        settings["prompts"] = _prompts_hash(tasks, tokenizer)
        # Last of all checks, so that a command that is refused leaves nothing behind.
        stack.enter_context(locked(output))
        claim(output, settings, "an evaluation")
        settings_shown = {"checkpoint": str(checkpoint), **settings}
        parts = {t: output / f"temperature-{t:g}" for t in protocol.grid}
        for temperature, part in parts.items() or [(protocol.temperature, output)]:
            part.mkdir(exist_ok=True)
            with display.stage("generate") as update:
                samples = generate_samples(
                    model,
                    tokenizer,
                    tasks,
                    protocol.at(temperature),
                    part / "samples.jsonl",
                    stop=benchmark.stop,
                    max_new_tokens=max_new_tokens,
                    seed=seed,
                    rows=environment.generation.rows,
                    progress=update,
                )
            judge_and_report(
                samples,
                benchmark,
                tasks,
                protocol.ks,
                judge,
                part,
                {**settings_shown, "temperature": temperature},
                display,
                section.extraction,
            )
        if parts:
            write_grid_report(output, parts, settings_shown)
    return output


def judge_samples(
    path: Path,
    document: Document,
    environment: Environment,
    *,
    output: Path,
    ks: tuple[int, ...] = (),
    display: Display | None = None,
) -> dict[str, Any]:
    """Judge anyone's `samples.jsonl` and return the report written into `output`.

    ks: the k of pass@k, of which every task with samples must have as many; default: 1, 10 and 100
    as far as it has. Tasks without samples are counted, named in the report, and in no metric.
    """
    display = display or Display()
    section, benchmark, tasks = _benchmark(document)
    all_tasks = tasks if section.limit is None else benchmark.tasks()
    samples = read_samples(path, benchmark=benchmark, tasks=all_tasks)
    chosen = {task.task_id for task in tasks}
    samples = [s for s in samples if our_task_id(s["task_id"], benchmark) in chosen]
    if not samples:
        raise DataError(
            f"{path}: there are no samples of the benchmark's tasks. Expected one JSON object per line."
        )
    ks = ks_of(Counter(our_task_id(sample["task_id"], benchmark) for sample in samples), ks, path)
    settings = {"samples": str(path), **section.model_dump(mode="json")}
    with _judge(benchmark, environment) as sandbox, locked(output):
        claim(output, settings, "an evaluation")
        report = judge_and_report(
            samples, benchmark, tasks, ks, sandbox, output, settings, display, section.extraction
        )
    for notice in [*benchmark.notices, *_about_tasks(report["tasks"])]:
        display.say(notice)
    return report


def ks_of(per_task: Counter[str], wanted: tuple[int, ...], path: Path) -> tuple[int, ...]:
    """Return `wanted`, or where it is empty the usual k that every task has samples for.

    per_task: the number of samples of each task. A k above one of them is a `DataError`.
    """
    task_id, fewest = min(per_task.items(), key=lambda pair: pair[1])
    if not wanted:
        return tuple(k for k in (1, 10, 100) if k <= fewest)
    if max(wanted) > fewest or min(wanted) < 1:
        raise DataError(
            f"{path}: pass@{max(wanted) if max(wanted) > fewest else min(wanted)} cannot be had: task "
            f"{task_id} has {fewest} samples, and k is 1 to the number of samples. Draw more samples, "
            "or ask for another --k."
        )
    return wanted


def _about_tasks(counts: dict[str, Any]) -> list[str]:
    missing, lines = counts["without_samples"], []
    if missing:
        lines.append(
            f"no samples for {len(missing)} of {len(missing) + counts['with_samples']} tasks (the "
            f"first: {missing[0]}): metrics are over the other {counts['with_samples']}"
        )
    return lines + [f"{len(ids)} tasks: {note}" for note, ids in counts["noted"].items()]


def write_page(checkpoint: Path) -> Path | None:
    """Write `report.html` into the run folder `checkpoint`; None when it is only a model folder."""
    if RunFolder(checkpoint).totals() is None:
        return None
    return write_report([checkpoint], checkpoint, title=checkpoint.name)


def _benchmark(document: Document) -> tuple[EvaluationSection, Benchmark[Any], list[Task]]:
    section = document.validate(EvaluationSection)
    fixed = PROTOCOLS[section.protocol].benchmark_settings.get(str(section.benchmark), {})
    for name, value in fixed.items():
        if document.data.setdefault(name, value) != value:
            raise ConfigError(
                f"{document.where((name,))}: the protocol {section.protocol} fixes {name} at {value} for "
                f"{section.benchmark}. Leave it out, or choose another protocol."
            )
    section = document.validate(EvaluationSection)
    named = BENCHMARKS.get(str(section.benchmark))
    benchmark = named(document.validate_options(section, named.Config, ()))
    tasks = benchmark.tasks()[: section.limit]
    if not tasks:
        raise DataError(f"{section.benchmark}: no task with these settings. Ask for more problems.")
    return section, benchmark, tasks


@contextmanager
def _model(folder: Path, environment: Environment) -> Iterator[MTPModel | VllmModel]:
    """Yield the model in `folder`, where and how the environment has it draw completions."""
    if environment.generation.backend == "vllm":
        with load_vllm(folder, environment.precision) as engine:
            yield engine
        return
    yield model_to_measure(folder, resolve_device(environment.device))


def _judge(benchmark: Benchmark[Any], environment: Environment) -> Sandbox | AnswerJudge:
    if benchmark.compares_answers:
        return AnswerJudge(environment.sandbox.workers)
    return Sandbox(environment.sandbox.mode, environment.sandbox.workers)


def _prompts_hash(tasks: list[Task], tokenizer: PreTrainedTokenizerBase) -> str:
    text = json.dumps([(task.task_id, frame(task.prompt, tokenizer).before) for task in tasks])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _weights_hash(folder: Path) -> str:
    state = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            state.update(hashlib.file_digest(stream, "sha256").digest())
    return state.hexdigest()[:16]
