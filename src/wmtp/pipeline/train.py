"""From settings to objects and through the stages: the only place that builds them."""

from __future__ import annotations

import functools
import json
import math
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from wmtp.algorithms.base import Algorithm
from wmtp.config.environment import Environment
from wmtp.config.load import Document, dump, load_document
from wmtp.config.options import resolve_options
from wmtp.config.recipe import Recipe
from wmtp.data.collate import Collate, OrderedSamples, PackedCollate
from wmtp.data.encode import EncodedSet
from wmtp.data.packing import PackedSamples, Packing
from wmtp.display import Display
from wmtp.errors import ConfigError, OutputError
from wmtp.evaluation.held_out import HeldOut
from wmtp.inputs import read_json_object, read_jsonl
from wmtp.losses import resolve
from wmtp.modeling.isolation import require_isolation
from wmtp.modeling.mtp import MTPModel
from wmtp.outputs import (
    LOCK_FILE,
    append_jsonl,
    atomic_directory,
    atomic_write_json,
    atomic_write_text,
    locked,
    writing,
)
from wmtp.pipeline.critic import add_values, keep_values, require_whole_pairs, restore_values
from wmtp.pipeline.data import (
    Data,
    add_reference,
    evaluation_sources,
    make_source,
    prepare_data,
    require_signals,
    sample_order,
)
from wmtp.pipeline.model import build_model
from wmtp.pipeline.results import write_results
from wmtp.provenance import provenance
from wmtp.registry import ALGORITHMS
from wmtp.run_folder import RunFolder, model_folder
from wmtp.tracking import RUN_FILE, Tracker
from wmtp.training.arguments import resolve_device, training_arguments
from wmtp.training.checkpoints import latest_checkpoint, step_of
from wmtp.training.coefficients import HeadCoefficients
from wmtp.training.cost import (
    reset_peak_memory,
)
from wmtp.training.diagnostics import difficulty_edges
from wmtp.training.trainer import MTPTrainer


def train(
    document: Document,
    environment: Environment,
    *,
    output: Path | None = None,
    resume: bool = False,
    display: Display | None = None,
) -> RunFolder:
    """Train the recipe in `document` and return its run folder.

    A complete run is returned as it is when `resume` is set. A run of another recipe in the same
    folder is an `OutputError`, so is any run there without `resume`, and another process at work
    there. Nothing is written before data, model and settings have been found to fit.
    """
    display = display or Display()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    recipe = document.validate(Recipe)
    options = resolve_options(recipe, document)
    algorithm = ALGORITHMS.get(recipe.algorithm.name)(options.algorithm, recipe.seed)
    source = make_source(recipe, options)
    against = evaluation_sources(recipe, options)
    run = RunFolder(output or Path(environment.output_root) / recipe.name)
    if _complete(run, recipe, resume):
        display.say(f"{run.path}: complete already")
        return run
    with locked(run.path):
        if _complete(run, recipe, resume):  # another process was at it until now
            return run
        device = resolve_device(environment.device)
        if environment.threads is not None:
            torch.set_num_threads(environment.threads)
        data = prepare_data(recipe, source, run, display, against)
        require_signals(algorithm, recipe, data)
        if algorithm.reference is not None:
            cache = Path(environment.output_root) / "cache"
            folder = model_folder(algorithm.reference)
            data = add_reference(data, folder, cache, device, display)
        if algorithm.values_from is not None:
            cache = Path(environment.output_root) / "cache"
            folder = model_folder(algorithm.values_from)
            data = add_values(data, folder, cache, device, display)
        _train(recipe, environment, run, algorithm, data, display)
    return run


def _complete(run: RunFolder, recipe: Recipe, resume: bool) -> bool:
    """Return whether the run is complete; refuse a folder that is not this recipe's to write into."""
    if not run.recipe.exists():
        if run.path.is_dir() and set(os.listdir(run.path)) - {LOCK_FILE, RUN_FILE}:
            raise OutputError(
                f"{run.path}: there are files but no {run.recipe.name}, so it is no run to go on with. "
                "Give another --output, or delete the folder."
            )
        return False
    if not resume:
        raise OutputError(
            f"{run.path}: a run is there already. Add --resume to go on with it, give another "
            "--output, or delete the folder."
        )
    before = load_document(run.recipe).validate(Recipe)
    if before != recipe:
        raise OutputError(
            f"{run.path}: the run there has another recipe ({_difference(before, recipe)}). Give "
            "another --output, or delete the folder."
        )
    return run.totals() is not None


def _claim(run: RunFolder, recipe: Recipe, environment: Environment, data: Data) -> None:
    """Write what the run is; the recipe first, for a folder with other files alone is no run."""
    atomic_write_text(run.recipe, dump(recipe))
    record = provenance()
    if run.provenance.exists():
        started = read_json_object(run.provenance)
        record = {**started, "resumed": [*started.get("resumed", []), record]}
    atomic_write_json(run.provenance, record)
    atomic_write_text(run.environment, dump(environment))
    if recipe.tokenizer.vocab_size is not None and not run.tokenizer.is_dir():
        with atomic_directory(run.tokenizer) as folder:
            data.tokenizer.save_pretrained(folder)


def _difference(before: Recipe, now: Recipe) -> str:
    """Return the first setting that differs, for a message."""
    old, new = before.model_dump(), now.model_dump()
    for section in new:
        if old[section] == new[section]:
            continue
        if not isinstance(new[section], dict):
            return f"{section}: {old[section]} there, {new[section]} now"
        for key in {**old[section], **new[section]}:
            then, wanted = old[section].get(key), new[section].get(key)
            if then != wanted:
                return f"{section}.{key}: {then} there, {wanted} now"
    return "in its order"


def _model(
    recipe: Recipe, environment: Environment, algorithm: Algorithm[Any], data: Data, device: str
) -> MTPModel:
    """Return the model, as the environment wants it computed."""
    model = build_model(recipe, algorithm, data.tokenizer)
    has_bias = model.backbone.get_output_embeddings().bias is not None
    try:
        resolve(environment.loss_backend, torch.device(device), has_bias)
    except ValueError as error:
        raise ConfigError(f"environment {environment.name}: {error}") from error
    model.loss_backend = environment.loss_backend
    if environment.gradient_checkpointing != "none":
        model.checkpoint_activations(environment.gradient_checkpointing)
    if recipe.data.packing != "none":
        require_isolation(model)
    return model


def _train(
    recipe: Recipe,
    environment: Environment,
    run: RunFolder,
    algorithm: Algorithm[Any],
    data: Data,
    display: Display,
) -> None:
    device = resolve_device(environment.device)
    order = sample_order(recipe, data, display)
    steps = len(order) // recipe.optimization.global_batch
    model = _model(recipe, environment, algorithm, data, device)
    padding = int(data.tokenizer.pad_token_id), recipe.data.pad_to_multiple_of
    collate = Collate(model.num_heads, *padding)
    held_out = None
    if data.validation is not None:
        is_mixture = recipe.data.mixture is not None
        held_out = HeldOut(data.validation, collate, by_source=is_mixture)
    saved = latest_checkpoint(run.checkpoints)
    if held_out is not None and saved is not None:
        boundary = algorithm.value_phase_steps(steps)
        if boundary is not None and step_of(saved) >= boundary:
            restore_values(held_out, run.held_out_values)
    samples, arguments = _layout(recipe, environment, run.checkpoints, data.train, order)
    require_whole_pairs(algorithm, arguments.per_device_train_batch_size)
    reset_peak_memory(device)
    with ExitStack() as opened:
        tracker = opened.enter_context(Tracker(environment.tracking, run.path))
        tracker.start(recipe.name, recipe.model_dump(), {"algorithm": recipe.algorithm.name})
        _claim(run, recipe, environment, data)
        if saved is not None:
            display.say(f"{run.path}: goes on after step {step_of(saved)}")
        _drop_metrics_after(run.metrics, saved)
        update = opened.enter_context(display.stage(recipe.name))
        log = opened.enter_context(append_jsonl(run.metrics))
        trainer = MTPTrainer(
            model=model,
            args=arguments,
            train_dataset=samples,
            collate=collate
            if isinstance(samples, OrderedSamples)
            else PackedCollate(model.num_heads, *padding),
            algorithm=algorithm,
            held_out=held_out,
            held_out_points=recipe.evaluation.held_out_points,
            head_coefficients=_head_coefficients(recipe),
            tokenizer=data.tokenizer,
            difficulty_edges=difficulty_edges(data.train),
            non_finite_report=run.path / "non_finite.json",
            on_value_phase_end=None
            if held_out is None
            else keep_values(held_out, run.held_out_values),
        )
        state = trainer.run_state

        def on_log(metrics: dict[str, float], step: int) -> None:
            tokens = trainer.state.num_input_tokens_seen
            metrics = {k: v for k, v in metrics.items() if math.isfinite(v)}
            metrics["train/skipped_steps"] = float(state.skipped)
            log.write({"step": step, "tokens": tokens, "seconds": state.seconds, **metrics})
            tracker.log(metrics, step)
            update(step, steps, _note(metrics))

        trainer.on_log = on_log
        if saved is None and recipe.evaluation.held_out_points:
            trainer.evaluate()
        with writing(run.path):
            trainer.train(resume_from_checkpoint=None if saved is None else str(saved))
        if trainer.is_world_process_zero():
            write_results(recipe, run, trainer, data, held_out, device)
            for file in (run.summary, run.metrics):
                tracker.artifact(file)
        if trainer.args.world_size > 1:
            # A process that leaves with the group still up may be aborted as its threads wind down.
            trainer.accelerator.wait_for_everyone()
            trainer.accelerator.end_training()


def _head_coefficients(recipe: Recipe) -> HeadCoefficients | None:
    section = recipe.optimization.head_coefficients
    if section is None:
        return None
    final = section.values if section.final is None else section.final
    return HeadCoefficients(section.values, final, section.decay_start, section.decay_end)


def _layout(
    recipe: Recipe, environment: Environment, checkpoints: Path, data: EncodedSet, order: np.ndarray
) -> tuple[OrderedSamples | PackedSamples, TrainingArguments]:
    """Return what is trained on, a sample to a row or packed, and the arguments that fit it."""
    batch = recipe.optimization.global_batch
    arguments = functools.partial(
        training_arguments, recipe, environment, checkpoints, len(order) // batch
    )
    if recipe.data.packing == "none":
        return OrderedSamples(data, order), arguments()
    packing = Packing(data, order, batch, recipe.data.max_length)
    packed = arguments(rows=packing.rows_needed())
    forwards = packed.gradient_accumulation_steps * packed.world_size
    return PackedSamples(packing, packed.per_device_train_batch_size * forwards), packed


def _note(metrics: dict[str, float]) -> str:
    """Return the few numbers that a progress line has room for."""
    parts = []
    heads = [v for k, v in sorted(metrics.items()) if k.startswith("train/ce/")]
    if heads:
        parts.append("ce " + " ".join(f"{value:.2f}" for value in heads))
    size = metrics.get("train/weight/effective_sample_size/head_0")
    if size is not None:
        parts.append(f"ess {size:.2f}")
    if "eval/ce/head_0" in metrics:
        parts.append(f"held-out {metrics['eval/ce/head_0']:.3f}")
    if "train/tokens_per_second" in metrics:
        parts.append(f"{metrics['train/tokens_per_second']:.0f} tok/s")
    return "  ".join(parts)


def _drop_metrics_after(path: Path, saved: Path | None) -> None:
    """Forget what was logged after the checkpoint that training goes on from."""
    with append_jsonl(path):
        pass  # mends a last line that a kill cut off
    last = -1 if saved is None else step_of(saved)
    kept = [json.dumps(line) + "\n" for line in read_jsonl(path) if line.get("step", 0) <= last]
    atomic_write_text(path, "".join(kept))
