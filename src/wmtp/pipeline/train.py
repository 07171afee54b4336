"""From settings to objects and through the stages: the only place that builds them."""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedTokenizerBase, set_seed
from transformers.utils import logging as transformers_logging

from wmtp.algorithms.base import Algorithm
from wmtp.config.environment import Environment
from wmtp.config.load import Document, dump, load_document
from wmtp.config.options import resolve_options
from wmtp.config.recipe import ArchitectureSection, Recipe
from wmtp.data.collate import Collate, OrderedSamples
from wmtp.data.encode import EncodedSet, encode_examples
from wmtp.data.example import Example
from wmtp.data.order import training_order
from wmtp.data.reference import with_reference_ce
from wmtp.data.source import Source
from wmtp.data.tokenizer import load_tokenizer, train_tokenizer
from wmtp.display import Display
from wmtp.errors import ConfigError, OutputError
from wmtp.evaluation.held_out import held_out_sums
from wmtp.evaluation.run import write_held_out_report
from wmtp.modeling.checkpoint import has_heads
from wmtp.modeling.mtp import MTPModel
from wmtp.outputs import (
    append_jsonl,
    atomic_directory,
    atomic_write_json,
    atomic_write_text,
    read_jsonl,
    writing,
)
from wmtp.provenance import provenance
from wmtp.registry import ALGORITHMS, SOURCES
from wmtp.run_folder import RunFolder, model_folder
from wmtp.tracking import Tracker
from wmtp.training.arguments import resolve_device, training_arguments
from wmtp.training.callbacks import latest_checkpoint
from wmtp.training.cost import (
    num_parameters,
    peak_memory_bytes,
    reset_peak_memory,
    training_flops,
)
from wmtp.training.trainer import MTPTrainer
from wmtp.training.weight_samples import weight_samples

_HELD_OUT_BATCH = 64
_NUM_WEIGHT_SAMPLES = 6


@dataclass(frozen=True)
class Data:
    """What a run trains on and is measured on."""

    tokenizer: PreTrainedTokenizerBase
    train: EncodedSet
    validation: EncodedSet | None


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
    folder is an `OutputError`, so is any run there without `resume`.
    """
    display = display or Display()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    recipe = document.validate(Recipe)
    options = resolve_options(recipe, document)
    algorithm = ALGORITHMS.get(recipe.algorithm.name)(options.algorithm, recipe.seed)
    source = SOURCES.get(recipe.data.source)(options.data)
    run = RunFolder(output or Path(environment.output_root) / recipe.name)
    _claim(run, recipe, environment, resume)
    if run.totals() is not None:
        display.say(f"{run.path}: complete already")
        return run
    if environment.threads is not None:
        torch.set_num_threads(environment.threads)
    data = _prepare(recipe, source, run, display)
    _require_signals(algorithm, recipe, data)
    if algorithm.reference is not None:
        cache = Path(environment.output_root) / "cache"
        data = _with_reference(data, model_folder(algorithm.reference), cache, environment, display)
    _train(recipe, environment, run, algorithm, data, display)
    return run


def _claim(run: RunFolder, recipe: Recipe, environment: Environment, resume: bool) -> None:
    """Make the run folder ours: new, or of the very same recipe."""
    text = dump(recipe)
    if run.recipe.exists():
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
    else:
        atomic_write_text(run.recipe, text)
    atomic_write_text(run.environment, dump(environment))
    atomic_write_json(run.provenance, provenance())


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


def _prepare(recipe: Recipe, source: Source[Any], run: RunFolder, display: Display) -> Data:
    """Read the source, get the tokenizer, encode."""
    settings = recipe.data
    with display.stage("data") as update:
        train_examples = list(islice(_usable(source, settings.split, recipe), settings.limit))
        update(1, 3, f"{len(train_examples)} training examples")
        tokenizer = _tokenizer(recipe, train_examples, run)
        encode = functools.partial(
            encode_examples, tokenizer=tokenizer, max_length=settings.max_length
        )
        train_set = encode(train_examples, where=f"{settings.source}, split {settings.split}")
        update(2, 3)
        validation = None
        if settings.validation_split is not None:
            held_out = islice(
                source.examples(settings.validation_split), recipe.evaluation.held_out_limit
            )
            validation = encode(
                held_out, where=f"{settings.source}, split {settings.validation_split}"
            )
        update(3, 3)
    if train_set.truncated or train_set.dropped:
        display.say(
            f"data: of {len(train_examples)} training examples, {train_set.truncated} were cut at "
            f"{settings.max_length} tokens and {train_set.dropped} had no target left"
        )
    return Data(tokenizer, train_set, validation)


def _usable(source: Source[Any], split: str, recipe: Recipe) -> Iterator[Example]:
    """Yield training examples; without the incorrect ones where the recipe wants none."""
    for example in source.examples(split):
        if recipe.data.incorrect_share != 0 or example.is_correct is not False:
            yield example


def _tokenizer(recipe: Recipe, examples: list[Example], run: RunFolder) -> PreTrainedTokenizerBase:
    given = recipe.tokenizer.pretrained
    if given is None and recipe.model.pretrained is not None:
        given = recipe.model.pretrained
        folder = Path(given)
        given = str(model_folder(folder)) if folder.is_dir() else given
    if given is not None:
        return load_tokenizer(given)
    if not run.tokenizer.is_dir():
        assert recipe.tokenizer.vocab_size is not None
        texts = (example.prompt + example.completion for example in examples)
        trained = train_tokenizer(texts, recipe.tokenizer.vocab_size)
        with atomic_directory(run.tokenizer) as folder:
            trained.save_pretrained(folder)
    return load_tokenizer(run.tokenizer)


def _require_signals(algorithm: Algorithm[Any], recipe: Recipe, data: Data) -> None:
    """Refuse data without what the algorithm needs."""
    if "reward" not in algorithm.needs:
        return
    rewards = [item.example.reward for item in data.train.items]
    if None in rewards or len(set(rewards)) < 2:
        raise ConfigError(
            f"algorithm {recipe.algorithm.name} learns values from correct and incorrect completions, "
            f"but data source {recipe.data.source} gives the rewards {sorted({str(r) for r in rewards})}. "
            "Choose data with both kinds, and data.incorrect_share above 0."
        )


def _with_reference(
    data: Data, reference: Path, cache: Path, environment: Environment, display: Display
) -> Data:
    sets = {"training": data.train, "validation": data.validation}
    found: dict[str, EncodedSet | None] = {}
    for name, part in sets.items():
        if part is None:
            found[name] = None
            continue
        with display.stage(f"reference loss, {name} data") as update:
            found[name] = with_reference_ce(
                part,
                reference,
                data.tokenizer,
                cache,
                device=resolve_device(environment.device),
                progress=update,
            )
    train_set = found["training"]
    assert train_set is not None
    return Data(data.tokenizer, train_set, found["validation"])


def _model(recipe: Recipe, algorithm: Algorithm[Any], data: Data) -> MTPModel:
    set_seed(recipe.seed)
    if recipe.model.architecture is not None:
        config = _llama_like(recipe.model.architecture, data.tokenizer)
        model = MTPModel.from_config(config, recipe.model.num_heads)
    else:
        model = _pretrained(str(recipe.model.pretrained), recipe.model.num_heads)
    if algorithm.value_head is not None and model.value_head is None:
        kind, train_trunk = algorithm.value_head
        model.add_value_head(kind, train_trunk)  # type: ignore[arg-type]
    if algorithm.value_head is None:
        model.value_head = None
    return model


def _pretrained(origin: str, num_heads: int) -> MTPModel:
    path = model_folder(origin) if Path(origin).is_dir() else Path(origin)
    if not has_heads(path):
        return MTPModel.from_backbone(str(path), num_heads)
    model = MTPModel.from_pretrained(path)
    if model.num_heads != num_heads:
        raise ConfigError(
            f"model.num_heads is {num_heads}, but the checkpoint {path} has {model.num_heads} heads. "
            f"Set model.num_heads to {model.num_heads}."
        )
    return model


def _llama_like(section: ArchitectureSection, tokenizer: PreTrainedTokenizerBase) -> Any:
    return AutoConfig.for_model(
        section.family,
        vocab_size=len(tokenizer),
        hidden_size=section.hidden_size,
        intermediate_size=section.intermediate_size,
        num_hidden_layers=section.num_layers,
        num_attention_heads=section.num_attention_heads,
        num_key_value_heads=section.num_key_value_heads or section.num_attention_heads,
        max_position_embeddings=section.max_positions,
        tie_word_embeddings=section.tie_embeddings,
        initializer_range=section.initializer_range,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _train(
    recipe: Recipe,
    environment: Environment,
    run: RunFolder,
    algorithm: Algorithm[Any],
    data: Data,
    display: Display,
) -> None:
    device = resolve_device(environment.device)
    order = training_order(
        data.train, recipe.optimization, recipe.data.incorrect_share, recipe.seed
    )
    steps = len(order) // recipe.optimization.global_batch
    model = _model(recipe, algorithm, data)
    if environment.gradient_checkpointing:
        model.checkpoint_activations()
    collate = Collate(model.num_heads, int(data.tokenizer.pad_token_id))
    saved = latest_checkpoint(run.checkpoints)
    _drop_metrics_after(run.metrics, saved)
    reset_peak_memory(device)
    tracker = Tracker(environment.tracking, run.path)
    with tracker, display.stage(recipe.name) as update, append_jsonl(run.metrics) as log:
        tracker.start(recipe.name, recipe.model_dump(), {"algorithm": recipe.algorithm.name})
        trainer = MTPTrainer(
            model=model,
            args=training_arguments(recipe, environment, run.checkpoints, steps),
            train_dataset=OrderedSamples(data.train, order),
            collate=collate,
            algorithm=algorithm,
            held_out=_held_out(data, collate),
            held_out_points=recipe.evaluation.held_out_points,
            non_finite_report=run.path / "non_finite.json",
        )
        state = trainer.run_state

        def on_log(metrics: dict[str, float], step: int) -> None:
            tokens = trainer.state.num_input_tokens_seen
            metrics = {k: v for k, v in metrics.items() if math.isfinite(v)}
            metrics["train/tokens_per_second"] = tokens / max(state.seconds, 1e-9)
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
            _finish(recipe, run, trainer, data, collate, device)
            for file in (run.summary, run.metrics):
                tracker.artifact(file)
        if trainer.args.world_size > 1:
            # A process that leaves with the group still up may be aborted as its threads wind down.
            trainer.accelerator.wait_for_everyone()
            trainer.accelerator.end_training()


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
    parts.append(f"{metrics['train/tokens_per_second']:.0f} tok/s")
    return "  ".join(parts)


def _held_out(data: Data, collate: Collate) -> Any:
    if data.validation is None:
        return None
    validation = data.validation

    def measure(model: MTPModel) -> dict[str, float]:
        return held_out_sums(model, validation, collate, _HELD_OUT_BATCH).curve_point()

    return measure


def _drop_metrics_after(path: Path, saved: Path | None) -> None:
    """Forget what was logged after the checkpoint that training goes on from."""
    with append_jsonl(path):
        pass  # mends a last line that a kill cut off
    last = -1 if saved is None else int(saved.name.rpartition("-")[2])
    kept = [json.dumps(record) + "\n" for record in read_jsonl(path) if record["step"] <= last]
    atomic_write_text(path, "".join(kept))


def _finish(
    recipe: Recipe,
    run: RunFolder,
    trainer: MTPTrainer,
    data: Data,
    collate: Collate,
    device: str,
) -> None:
    """Write the model, its held-out loss, a few weights, and at last the totals."""
    model: MTPModel = trainer.accelerator.unwrap_model(trainer.model)
    tokens = trainer.state.num_input_tokens_seen
    peak = peak_memory_bytes(device)
    with atomic_directory(run.model) as folder:
        model.save_pretrained(folder)
        data.tokenizer.save_pretrained(folder)
    shown = data.validation or data.train
    if data.validation is not None:
        sums = held_out_sums(model, data.validation, collate, _HELD_OUT_BATCH)
        settings = {"source": recipe.data.source, "split": recipe.data.validation_split}
        write_held_out_report(sums, run.evaluation("held-out"), settings)
    samples = weight_samples(
        model, trainer.algorithm, shown, _spread(shown), collate, data.tokenizer
    )
    atomic_write_json(run.weights, {"samples": samples})
    order: Any = trainer.train_dataset
    mean_length = sum(len(item) for item in data.train.items) / len(data.train)
    own = training_flops(model, tokens, mean_length)
    extra = _reference_flops(trainer.algorithm, data)
    totals = {
        "name": recipe.name,
        "algorithm": recipe.algorithm.name,
        "seed": recipe.seed,
        "status": "complete",
        "steps": trainer.state.global_step,
        "samples": len(order),
        "tokens": tokens,
        "flops": own + extra,
        "extra_flops": {"reference": extra},
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


def _spread(data: EncodedSet) -> list[int]:
    """Choose samples to show: those with a known fault first, then others, evenly spaced."""
    faulty = [i for i, item in enumerate(data.items) if item.fault.any()]
    other = [i for i, item in enumerate(data.items) if not item.fault.any()]
    half = _NUM_WEIGHT_SAMPLES // 2
    chosen = faulty[:: max(1, len(faulty) // half)][:half] if faulty else []
    room = _NUM_WEIGHT_SAMPLES - len(chosen)
    return chosen + other[:: max(1, len(other) // room)][:room]


def _reference_flops(algorithm: Algorithm[Any], data: Data) -> float:
    """Return what the reference cost: its training, where known, and one pass over the data."""
    if algorithm.reference is None:
        return 0.0
    folder = model_folder(algorithm.reference)
    totals = RunFolder(folder.parent).totals() or {}
    parameters = totals.get("num_parameters") or num_parameters(MTPModel.from_pretrained(folder))
    tokens = sum(len(i) for part in (data.train, data.validation) if part for i in part.items)
    return float(totals.get("flops", 0.0)) + 2.0 * parameters * tokens
