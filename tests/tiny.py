"""Tiny models and data that tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, TrainingArguments

from wmtp.algorithms.base import Algorithm
from wmtp.data.collate import Collate, OrderedSamples, PackedCollate
from wmtp.data.encode import Encoded, EncodedSet
from wmtp.data.example import Example
from wmtp.data.packing import PackedSamples, Packing
from wmtp.modeling.heads import HeadType
from wmtp.modeling.mtp import MTPModel
from wmtp.training.trainer import MTPTrainer

VOCAB = 40


def tiny_config(family: str = "llama", **settings: Any) -> Any:
    """Return a configuration of 3 layers and width 32; a setting of None is left to the family."""
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **settings,
    }
    return AutoConfig.for_model(family, **{k: v for k, v in sizes.items() if v is not None})


def tiny_model(
    num_heads: int = 4, value_head: bool = False, seed: int = 0, head_type: HeadType = "parallel"
) -> MTPModel:
    """Return a random model; the same for the same seed."""
    torch.manual_seed(seed)
    model = MTPModel.from_config(tiny_config(), num_heads, head_type=head_type)
    if value_head:
        model.add_value_head("linear", train_trunk=True)
    return model


def tiny_data(
    num: int = 16, seed: int = 0, lengths: tuple[int, int] = (8, 20), ref: bool = True
) -> EncodedSet:
    """Return random sequences with prompts of 3 tokens, rewards 0 and 1 in turn, two samples to a
    problem, and ref_ce."""
    rng = np.random.default_rng(seed)
    items = []
    for i in range(num):
        length = int(rng.integers(*lengths))
        completion = np.arange(length) >= 3
        items.append(
            Encoded(
                example=Example(f"t/{i // 2}", "p", "c" * length, reward=float(i % 2)),
                input_ids=rng.integers(3, VOCAB, length).astype(np.int32),
                completion=completion,
                fault=np.zeros(length, dtype=bool),
                num_bytes=length,
                ref_ce=rng.uniform(1, 5, length).astype(np.float32) if ref else None,
            )
        )
    return EncodedSet(items)


def trainer_for(
    folder: Path,
    algorithm: Algorithm[Any],
    model: MTPModel,
    data: EncodedSet,
    order: np.ndarray,
    *,
    micro: int,
    accumulation: int = 1,
    packing: Packing | None = None,
    **arguments: Any,
) -> tuple[MTPTrainer, list[dict[str, float]]]:
    """Return a trainer over `order` and the list that its logs go to.

    With `packing`, which has the order too, `micro` and `accumulation` count rows.
    """
    per_step = micro * accumulation * int(arguments.pop("processes", 1))
    samples = OrderedSamples(data, order) if packing is None else PackedSamples(packing, per_step)
    steps = len(samples) // per_step
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "max_steps": steps,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "train_sampling_strategy": "sequential",
        "include_num_input_tokens_seen": "non_padding",
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "dataloader_pin_memory": False,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        **arguments,
    }
    logs: list[dict[str, float]] = []
    trainer = MTPTrainer(
        model=model,
        args=TrainingArguments(**settings),
        train_dataset=samples,
        collate=(Collate if packing is None else PackedCollate)(model.num_heads, 0),
        algorithm=algorithm,
        non_finite_report=folder / "non_finite.json",
        on_log=lambda metrics, step: logs.append({"step": step, **metrics}),
    )
    return trainer, logs


def child_environment() -> dict[str, str]:
    """Return the environment of a process that imports what this one can, on one thread."""
    paths = [str(Path(__file__).parents[1]), *sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def on_two_processes(script: Path, *arguments: str) -> None:
    """Run a script of the tests under torch.distributed.run on two processes."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    launch.append("--rdzv-endpoint=localhost:0")
    done = subprocess.run(
        [sys.executable, *launch, str(script), *arguments],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
