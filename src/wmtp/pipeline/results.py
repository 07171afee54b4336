"""What a finished run leaves: model, held-out loss, weights of a few samples, totals."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from wmtp.config.recipe import Recipe
from wmtp.data.collate import Collate
from wmtp.data.encode import EncodedSet
from wmtp.data.seen import SeenProblems
from wmtp.evaluation.held_out import HeldOut
from wmtp.evaluation.per_head import head_analysis
from wmtp.evaluation.run import write_held_out_report
from wmtp.modeling.card import Training, write_model_card
from wmtp.modeling.mtp import MTPModel
from wmtp.outputs import atomic_directory, atomic_write_json
from wmtp.pipeline.data import Data
from wmtp.pretrained import load_causal_lm
from wmtp.run_folder import RunFolder, model_folder
from wmtp.training.cost import num_parameters, peak_memory_bytes, training_flops
from wmtp.training.trainer import MTPTrainer
from wmtp.training.weight_samples import weight_samples

_NUM_WEIGHT_SAMPLES = 6


def write_results(
    recipe: Recipe,
    run: RunFolder,
    trainer: MTPTrainer,
    data: Data,
    held_out: HeldOut | None,
    device: str,
) -> None:
    """Write the model, its held-out loss, a few weights, and at last the totals."""
    model: MTPModel = trainer.accelerator.unwrap_model(trainer.model)
    tokens = trainer.state.num_input_tokens_seen
    peak = peak_memory_bytes(device)
    with atomic_directory(run.model) as folder:
        model.save_pretrained(folder)
        data.tokenizer.save_pretrained(folder)
        training = training_facts(recipe, tokens)
        from_hub = training.start is not None and "/" in training.start
        metadata = {"base_model": training.start} if from_hub else {}
        write_model_card(model, folder, "native", training=training, metadata=metadata)
    shown = data.validation or data.train
    collate = Collate(model.num_heads, int(data.tokenizer.pad_token_id))
    if held_out is not None:
        # The last point of the learning curve is the finished model's.
        sums = held_out.newest or held_out.measure(model)
        settings = {"source": recipe.data.label, "split": recipe.data.validation_split}
        heads = head_analysis(model, held_out.data, collate, data.tokenizer, recipe.data.boundary)
        write_held_out_report(sums, run.evaluation("held-out"), settings, heads)
    samples = weight_samples(
        model, trainer.algorithm, shown, _spread(shown), collate, data.tokenizer
    )
    atomic_write_json(run.weights, {"samples": samples})
    atomic_write_json(run.algorithm_state, trainer.algorithm.state)
    seen_problems(recipe, data.train).save(run.seen)
    dataset: Any = trainer.train_dataset
    mean_length = sum(len(item) for item in data.train.items) / len(data.train)
    own = training_flops(model, tokens, mean_length)
    extra = {
        "reference": _other_model_flops(trainer.algorithm.reference, data),
        "critic": _other_model_flops(trainer.algorithm.values_from, data),
    }
    totals = {
        "name": recipe.name,
        "algorithm": recipe.algorithm.name,
        "seed": recipe.seed,
        "status": "complete",
        "steps": trainer.state.global_step,
        "samples": dataset.num_samples,
        "tokens": tokens,
        "flops": own + sum(extra.values()),
        "extra_flops": extra,
        "seconds": trainer.run_state.seconds,
        "peak_memory_bytes": peak,
        "num_parameters": num_parameters(model),
        "num_heads": model.num_heads,
        "skipped_steps": trainer.run_state.skipped,
        "truncated_examples": data.train.truncated,
        "dropped_examples": data.train.dropped,
    }
    atomic_write_json(run.summary, totals)
    shutil.rmtree(run.checkpoints, ignore_errors=True)


def training_facts(recipe: Recipe, tokens: int) -> Training:
    """Return what a model card says of a run; of a local model it started from, only the name."""
    start = recipe.model.pretrained
    if start is not None and (Path(start).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", start)):
        start = Path(start).name
    return Training(
        algorithm=recipe.algorithm.name,
        data_source=recipe.data.label,
        tokens=tokens,
        seed=recipe.seed,
        start=start,
    )


def seen_problems(recipe: Recipe, data: EncodedSet) -> SeenProblems:
    """Return the problems of the training data, and those that the run it started from has seen."""
    seen = SeenProblems.of(item.example for item in data.items)
    start = recipe.model.pretrained
    if start is not None and Path(start).is_dir():
        before = RunFolder(model_folder(start).parent).seen
        if before.is_file():
            seen |= SeenProblems.load(before)
    return seen


def _spread(data: EncodedSet) -> list[int]:
    """Choose samples to show: those with a known fault first, then others, evenly spaced."""
    faulty = [i for i, item in enumerate(data.items) if item.fault.any()]
    other = [i for i, item in enumerate(data.items) if not item.fault.any()]
    half = _NUM_WEIGHT_SAMPLES // 2
    chosen = faulty[:: max(1, len(faulty) // half)][:half] if faulty else []
    room = _NUM_WEIGHT_SAMPLES - len(chosen)
    return chosen + other[:: max(1, len(other) // room)][:room]


def _other_model_flops(checkpoint: str | None, data: Data) -> float:
    """Return what a reference or critic cost: its training, where known, and one pass over the data."""
    if checkpoint is None:
        return 0.0
    folder = model_folder(checkpoint)
    totals = RunFolder(folder.parent).totals() or {}
    parameters = totals.get("num_parameters") or num_parameters(load_causal_lm(folder))
    tokens = sum(len(i) for part in (data.train, data.validation) if part for i in part.items)
    return float(totals.get("flops", 0.0)) + 2.0 * parameters * tokens
