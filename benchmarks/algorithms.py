"""What each weighting scheme costs: time and memory of whole training steps, side by side in one run.

    python benchmarks/algorithms.py [--rounds 5] [--steps 4] [--size tiny|small|1b] [--device cuda]

A random-weight Llama with four heads on random tokens with rewards and a cached reference loss. Time is CPU
seconds of one thread (wall seconds on a GPU) from the beginning of the second step of a round to the end
of its last; variants alternate within a round, and a ratio is the median over rounds of the ratio within
one. Memory is the peak of a step above the parameters, the median of three processes per variant, for the
peaks of two processes differ by some 3 %. What the logged statistics cost is measured inside the baseline's
steps, for it is less than what steps differ by.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from step import SIZES, Clock, arguments, llama
from wmtp.algorithms.base import Algorithm
from wmtp.data.collate import Collate, OrderedSamples
from wmtp.data.encode import Encoded, EncodedSet
from wmtp.data.example import Example
from wmtp.modeling.mtp import MTPModel
from wmtp.registry import ALGORITHMS
from wmtp.training import callbacks
from wmtp.training import trainer as trainer_module
from wmtp.training.cost import peak_memory_bytes, reset_peak_memory
from wmtp.training.diagnostics import (
    difficulty_edges,
    head_gradient_norms,
    quartile_of_targets,
)
from wmtp.training.trainer import MTPTrainer

HEADS = 4
BASELINE = "mtp-baseline"
RHO1 = {"name": "rho1-wmtp", "reference": "cached", "select_by": "head"}
CRITIC = {"name": "critic-wmtp", "value_phase": {"share": 0.0}}
# A scheme with its settings by label.
SETTINGS: dict[str, dict[str, Any]] = {
    BASELINE: {"name": "mtp-baseline"},
    "rho1-wmtp, by token": {**RHO1, "select_by": "token"},
    "rho1-wmtp, by head": RHO1,
    "rho1-wmtp, by head, all": {**RHO1, "always_keep_head_0": False},
    "critic-wmtp": CRITIC,
    "critic-wmtp, mlp": {**CRITIC, "value_head": "mlp"},
    "critic-wmtp, lambda 0.95": {**CRITIC, "gae_lambda": 0.95},
    "token-probability": {"name": "token-probability"},
    "high-entropy": {"name": "high-entropy"},
    "focal": {"name": "focal"},
    "gradient-importance, each step": {"name": "gradient-importance", "every_n_steps": 1},
    "hybrid": {"name": "hybrid", "first": CRITIC, "second": RHO1},
    "shuffled critic-wmtp": {"name": "shuffled", "of": CRITIC},
    "random-matched critic-wmtp": {"name": "random-matched", "of": CRITIC},
    "inverted critic-wmtp": {"name": "inverted", "of": CRITIC},
}
# Highest ratio to the baseline's time that we want, and to its memory.
TIME_BARS = {"rho1-wmtp, by token": 0.95, "critic-wmtp": 1.05}
MEMORY_BAR = 1.02
PEAKS = 3


class Watch(Clock):
    """Measures the steps, and within them the functions that `timed` wraps."""

    within = 0.0

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        super().on_step_begin(args, state, control, **kwargs)
        if state.global_step == 1:
            self.within = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = self.now()
            found = function(*args, **kwargs)
            self.within += self.now() - started
            return found

        return run


def scheme(label: str) -> Algorithm[Any]:
    settings = dict(SETTINGS[label])
    kind = ALGORITHMS.get(settings.pop("name"))
    algorithm: Algorithm[Any] = kind(kind.Config(**settings))
    return algorithm


def model_for(a: argparse.Namespace, algorithm: Algorithm[Any]) -> MTPModel:
    model = MTPModel.from_backbone(llama(a), HEADS)
    if algorithm.value_head is not None:
        model.add_value_head(*algorithm.value_head[:3])
    return model


def data_for(a: argparse.Namespace, steps: int) -> EncodedSet:
    """Sequences whose first quarter is the prompt, correct and incorrect in turn."""
    *_, vocab, length, batch = SIZES[a.size]
    rng = np.random.default_rng(0)
    items = [
        Encoded(
            example=Example(f"t/{i}", "", "c", reward=float(i % 2)),
            input_ids=rng.integers(3, vocab, length).astype(np.int32),
            completion=np.arange(length) >= length // 4,
            fault=np.zeros(length, dtype=bool),
            num_bytes=length,
            ref_ce=rng.gamma(1.0, 3.0, length).astype(np.float16),
        )
        for i in range(steps * batch)
    ]
    return EncodedSet(items)


def trainer_for(a: argparse.Namespace, label: str, steps: int, folder: str) -> MTPTrainer:
    algorithm, data = scheme(label), data_for(a, steps)
    settings = arguments(a, steps, folder) | {
        "logging_steps": 1,  # ten times as often as an environment does
        "label_names": ["labels"],
        "include_num_input_tokens_seen": "non_padding",
        "train_sampling_strategy": "sequential",
    }
    return MTPTrainer(
        model=model_for(a, algorithm),
        args=TrainingArguments(**settings),
        train_dataset=OrderedSamples(data, np.arange(len(data))),
        collate=Collate(HEADS, 0),
        algorithm=algorithm,
        non_finite_report=Path(folder) / "non_finite.json",
        difficulty_edges=difficulty_edges(data),
    )


def seconds(a: argparse.Namespace, label: str) -> float:
    """Return the time of a step."""
    clock = Clock(a.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(a, label, a.steps, folder)
        trainer.add_callback(clock)
        trainer.train()
    return clock.seconds / (a.steps - 1)


def share_of_statistics(a: argparse.Namespace) -> float:
    """Return the share of the baseline's steps that goes into what is logged."""
    watch = Watch(a.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(a, BASELINE, a.steps, folder)
        trainer.add_callback(watch)
        trainer.meter.add = watch.timed(trainer.meter.add)  # type: ignore[method-assign]
        trainer.log = watch.timed(trainer.log)  # type: ignore[method-assign]
        with (
            patch.object(trainer_module, "quartile_of_targets", watch.timed(quartile_of_targets)),
            patch.object(callbacks, "head_gradient_norms", watch.timed(head_gradient_norms)),
        ):
            trainer.train()
    return watch.within / watch.seconds


def peak(a: argparse.Namespace, label: str, queue: Any) -> None:
    """Run in a process of its own: put the peak of a step above the parameters."""
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(a, label, 3, folder)
        reset_peak_memory(a.device)
        before = peak_memory_bytes(a.device)
        trainer.train()
        queue.put(peak_memory_bytes(a.device) - before)


def measured_peak(a: argparse.Namespace, label: str) -> int:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak, args=(a, label, queue))
    process.start()
    found: int = queue.get()
    process.join()
    return found


def verdict(label: str, time_ratio: float, memory_ratio: float) -> str:
    """Return which bars are missed."""
    missed = [] if time_ratio <= TIME_BARS.get(label, np.inf) else ["time"]
    missed += [] if memory_ratio <= MEMORY_BAR else ["memory"]
    return f"over the bar: {', '.join(missed)}" if missed else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), help="beside the baseline")
    parser.add_argument(
        "--json", type=Path, default=Path(__file__).parent / "results/algorithms.json"
    )
    a = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    labels = [label for label in SETTINGS if label == BASELINE or label in (a.only or SETTINGS)]
    times: dict[str, list[float]] = {label: [] for label in labels}
    for round_ in range(a.rounds):
        # Each round begins elsewhere, so that what comes first or after whom does not stay the same.
        for label in labels[round_ % len(labels) :] + labels[: round_ % len(labels)]:
            times[label].append(seconds(a, label))
    memory = {
        label: statistics.median(measured_peak(a, label) for _ in range(PEAKS)) for label in labels
    }
    width, _, layers, _, vocab, length, batch = SIZES[a.size]
    print(
        f"D {width}, {layers} layers, H {HEADS}, V {vocab}, {batch} x {length} tokens, {a.device}"
    )
    print(f"{'':30} {'s/step':>7} {'ratio':>6} {'range':>13} {'peak MiB':>9} {'ratio':>6}")
    rows = {}
    for label in labels:
        ratios = [one / base for one, base in zip(times[label], times[BASELINE], strict=True)]
        rows[label] = {
            "seconds": statistics.median(times[label]),
            "time_ratio": statistics.median(ratios),
            "time_ratios": ratios,
            "peak_bytes": memory[label],
            "memory_ratio": memory[label] / memory[BASELINE],
        }
        row = rows[label]
        print(
            f"{label:30} {row['seconds']:7.3f} {row['time_ratio']:6.3f} "
            f"{min(ratios):6.3f}-{max(ratios):6.3f} {memory[label] / 2**20:9.0f} "
            f"{row['memory_ratio']:6.3f} {verdict(label, row['time_ratio'], row['memory_ratio'])}"
        )
    share = statistics.median(share_of_statistics(a) for _ in range(a.rounds))
    print(f"statistics, logged at every step: {share:.2%} of a step")
    a.json.parent.mkdir(exist_ok=True)
    a.json.write_text(
        json.dumps(
            {"size": a.size, "rounds": a.rounds, "rows": rows, "statistics": share}, indent=2
        )
    )


if __name__ == "__main__":
    main()
