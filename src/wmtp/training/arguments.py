"""The one place where recipe and environment become `transformers.TrainingArguments`."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

from wmtp.config.environment import Environment
from wmtp.config.recipe import Recipe
from wmtp.errors import ConfigError

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def training_arguments(
    recipe: Recipe, environment: Environment, output: Path, steps: int, rows: int | None = None
) -> TrainingArguments:
    """Return the arguments of a run of `steps` optimizer steps that saves below `output`.

    rows: how many rows a step needs at least, where documents share them.
    """
    optimization = recipe.optimization
    device = resolve_device(environment.device)
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=optimization.learning_rate,
        lr_scheduler_type=_SCHEDULES[optimization.schedule],
        warmup_steps=round(optimization.warmup_share * steps),
        weight_decay=optimization.weight_decay,
        adam_beta1=optimization.adam_beta1,
        adam_beta2=optimization.adam_beta2,
        max_grad_norm=optimization.max_grad_norm,
        seed=recipe.seed,
        data_seed=recipe.seed,
        train_sampling_strategy="sequential",  # the order is decided in data/order.py
        bf16=use_bfloat16(environment.precision, device),
        use_cpu=device == "cpu",
        dataloader_num_workers=environment.dataloader_workers,
        ddp_find_unused_parameters=False,  # every parameter is in every step
        dataloader_pin_memory=device == "cuda",
        save_strategy="steps",
        save_steps=environment.checkpoint.every_steps,
        save_total_limit=environment.checkpoint.keep,
        logging_strategy="steps",
        logging_steps=environment.log_every_steps,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        disable_tqdm=True,
    )
    sizes = optimization.global_batch, environment.micro_batch, arguments.world_size
    micro, accumulation = micro_batches(*sizes) if rows is None else packed_batches(rows, *sizes)
    arguments.per_device_train_batch_size = micro
    arguments.gradient_accumulation_steps = accumulation
    return arguments


def micro_batches(global_batch: int, micro_batch: int | None, processes: int) -> tuple[int, int]:
    """Return sequences per device and forward, and forwards per step; they multiply to the whole."""
    if global_batch % processes:
        raise ConfigError(
            f"optimization.global_batch {global_batch} does not divide by the {processes} processes. "
            "Change the number of processes."
        )
    per_process = global_batch // processes
    micro = micro_batch or per_process
    if per_process % micro:
        fits = [m for m in range(1, per_process + 1) if per_process % m == 0]
        raise ConfigError(
            f"environment micro_batch {micro} does not divide the {per_process} sequences per process "
            f"(optimization.global_batch {global_batch} on {processes}). It may be one of {fits}."
        )
    return micro, per_process // micro


def packed_batches(
    rows: int, global_batch: int, micro_batch: int | None, processes: int
) -> tuple[int, int]:
    """Return rows per device and forward, and forwards per step, for at least `rows` rows per step.

    Every row needs a document of the `global_batch`.
    """
    per_process = -(-rows // processes)
    micro = min(micro_batch or per_process, per_process)
    accumulation = -(-per_process // micro)
    if micro * accumulation * processes > global_batch:
        raise ConfigError(
            f"the {global_batch} documents of a step (optimization.global_batch) do not fill "
            f"{micro * accumulation * processes} packed rows: {accumulation} forwards of {micro} rows on "
            f"{processes} processes. Lower environment micro_batch, or set data.packing to none."
        )
    return micro, accumulation


def resolve_device(device: str) -> str:
    """Return the device to use; one that is not there is a `ConfigError`."""
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[device]:
        raise ConfigError(
            f"environment device: {device} is not available to torch {torch.__version__} on this machine. "
            "Set device: auto, or install a torch build for it; `wmtp doctor` shows what works."
        )
    return device


def use_bfloat16(precision: str, device: str) -> bool:
    """Return whether to train under bfloat16 autocast."""
    if precision == "auto":
        return device == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"
