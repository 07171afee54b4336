"""Time and memory of a whole training step, side by side in one run.

    python benchmarks/step.py [--rounds 3] [--steps 4] [--size tiny|small|1b]
    python benchmarks/step.py --device cuda --size 1b --steps 10 --peak-tflops 989 --profile 15

A random-weight Llama on random tokens, AdamW, no gradient accumulation. Next-token training (H = 1) by a
hand-written loop in plain PyTorch, by `trl.SFTTrainer` where trl is installed, and by wmtp; then wmtp with
H = 2 and 4, whose time is compared with what the extra FLOPs predict, all heads at once and in turn
(`gradient_checkpointing: heads`). Time is CPU seconds (wall seconds on a GPU) between the beginning of the
second step of a round and the end of its last; the median over rounds in which the variants alternate.
Memory is the peak of a step above the parameters, one process per variant, for H = 1, 2, 4 and 8. On a CPU
glibc is told to give back what is freed (MALLOC_MMAP_THRESHOLD_): else its holes are measured too. With
`--peak-tflops`, what the machine can do in the precision of the products, the model-FLOPs utilisation is
shown; with `--profile N` the N kernels that take longest in two steps with H = 4.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from wmtp.algorithms.baseline import Baseline
from wmtp.data.collate import Collate, OrderedSamples
from wmtp.data.encode import Encoded, EncodedSet
from wmtp.data.example import Example
from wmtp.modeling.mtp import MTPModel
from wmtp.training.cost import peak_memory_bytes, reset_peak_memory, training_flops
from wmtp.training.trainer import MTPTrainer

# hidden, feed-forward, layers, heads, vocabulary, length of a sequence, sequences
SIZES = {
    "tiny": (64, 160, 2, 4, 500, 32, 2),
    "small": (256, 688, 6, 8, 8192, 256, 4),
    "1b": (2048, 5632, 22, 32, 32000, 2048, 8),
}


class Clock(TrainerCallback):
    """Measures from the beginning of the second step to the end of the last."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds, self._started = device, 0.0, 0.0

    def now(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()  # pragma: gpu
        return time.perf_counter()

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == 1:
            self._started = self.now()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.seconds = self.now() - self._started


def llama(a: argparse.Namespace) -> LlamaForCausalLM:
    torch.manual_seed(0)
    width, feed_forward, layers, heads, vocab, length, _ = SIZES[a.size]
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=length,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def token_rows(a: argparse.Namespace, steps: int) -> np.ndarray:
    *_, vocab, length, batch = SIZES[a.size]
    return np.random.default_rng(0).integers(3, vocab, (steps * batch, length)).astype(np.int32)


def arguments(a: argparse.Namespace, steps: int, folder: str) -> dict:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": SIZES[a.size][-1],
        "max_steps": steps,
        "learning_rate": 1e-4,
        "save_strategy": "no",
        "logging_steps": steps,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": a.device == "cpu",
        "bf16": a.device == "cuda",
        "dataloader_pin_memory": a.device == "cuda",
        "remove_unused_columns": False,
    }


def plain(a: argparse.Namespace, steps: int) -> float:
    """The loop that one writes by hand: logits, cross entropy, clip, AdamW."""
    model = llama(a).train().to(a.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batches = torch.from_numpy(token_rows(a, steps)).long().split(SIZES[a.size][-1])
    clock = Clock(a.device)
    started = 0.0
    for step, batch in enumerate(batches):
        if step == 1:
            started = clock.now()
        batch = batch.to(a.device)
        with torch.autocast(a.device, torch.bfloat16, enabled=a.device == "cuda"):
            logits = model(input_ids=batch, attention_mask=torch.ones_like(batch)).logits
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return clock.now() - started


def sft(a: argparse.Namespace, steps: int) -> float:
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    vocab = {f"t{i}": i for i in range(SIZES[a.size][4])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocab, unk_token="t0")),
        eos_token="t1",
        pad_token="t2",
    )
    clock = Clock(a.device)
    with tempfile.TemporaryDirectory() as folder:
        settings = arguments(a, steps, folder) | {
            "max_length": None,
            "gradient_checkpointing": False,
        }
        trainer = SFTTrainer(
            model=llama(a),
            args=SFTConfig(**settings),
            train_dataset=Dataset.from_dict({"input_ids": token_rows(a, steps).tolist()}),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    return clock.seconds


def wmtp_trainer(a: argparse.Namespace, steps: int, heads: int, folder: str) -> MTPTrainer:
    rows = token_rows(a, steps)
    items = [
        Encoded(Example("t", "", "c"), row, np.arange(len(row)) > 0, np.zeros(len(row), bool), 1)
        for row in rows
    ]
    settings = arguments(a, steps, folder) | {
        "label_names": ["labels"],
        "include_num_input_tokens_seen": "non_padding",
        "train_sampling_strategy": "sequential",
    }
    model = MTPModel.from_backbone(llama(a), heads)
    if a.in_turn:
        model.checkpoint_activations("heads")
    return MTPTrainer(
        model=model,
        args=TrainingArguments(**settings),
        train_dataset=OrderedSamples(EncodedSet(items), np.arange(len(items))),
        collate=Collate(heads, 0),
        algorithm=Baseline(Baseline.Config()),
        non_finite_report=Path(folder) / "non_finite.json",
    )


def ours(a: argparse.Namespace, steps: int, heads: int, in_turn: bool = False) -> float:
    a.in_turn = in_turn
    clock = Clock(a.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = wmtp_trainer(a, steps, heads, folder)
        trainer.add_callback(clock)
        trainer.train()
    return clock.seconds


def variants() -> dict[str, Callable[[argparse.Namespace, int], float]]:
    found: dict[str, Callable[[argparse.Namespace, int], float]] = {"plain loop, H = 1": plain}
    if importlib.util.find_spec("trl"):
        found["trl SFTTrainer, H = 1"] = sft
    for heads in (1, 2, 4):
        found[f"wmtp, H = {heads}"] = functools.partial(ours, heads=heads)
    for heads in (2, 4):
        found[f"wmtp in turn, H = {heads}"] = functools.partial(ours, heads=heads, in_turn=True)
    return found


def peak(a: argparse.Namespace, heads: int, queue) -> None:
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        trainer = wmtp_trainer(a, 2, heads, folder)
        parameters = sum(p.numel() * p.element_size() for p in trainer.policy.parameters())
        reset_peak_memory(a.device)
        before = peak_memory_bytes(a.device)
        trainer.train()
        queue.put((peak_memory_bytes(a.device) - before, parameters))


def measured_peak(a: argparse.Namespace, heads: int) -> tuple[int, int]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak, args=(a, heads, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def flops(a: argparse.Namespace, heads: int) -> float:
    """Return the FLOPs of a step."""
    length, batch = SIZES[a.size][-2:]
    with torch.device("meta"):
        model = MTPModel.from_backbone(llama(a), heads)
    return training_flops(model, length * batch, length)


def print_profile(a: argparse.Namespace) -> None:
    """Show where the time of two steps with H = 4 goes."""
    kinds = {
        "cpu": torch.profiler.ProfilerActivity.CPU,
        "cuda": torch.profiler.ProfilerActivity.CUDA,
    }
    with torch.profiler.profile(activities=[kinds[a.device]]) as profile:
        ours(a, 2, 4)
    order = f"self_{a.device}_time_total"
    print(
        profile.key_averages().table(sort_by=order, row_limit=a.profile, max_name_column_width=60)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--peak-tflops", type=float, help="Show MFU: 989 for bfloat16 on an H100/H200."
    )
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="Show N kernels.")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/step.json")
    a = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {name: [] for name in variants()}
    for _ in range(a.rounds):
        for name, run in variants().items():
            times[name].append(run(a, a.steps) / (a.steps - 1))
    base = statistics.median(times["plain loop, H = 1"])
    one = statistics.median(times["wmtp, H = 1"])
    width, _, layers, _, vocab, length, batch = SIZES[a.size]
    print(f"D {width}, {layers} layers, V {vocab}, {batch} x {length} tokens, {a.device}")
    print(f"{'':24} {'s/step':>7} {'to plain':>9} {'to H = 1':>9} {'FLOPs to H = 1':>15}")
    rows = {}
    for name, spent in times.items():
        heads = int(name.rpartition(" ")[2])
        rows[name] = {
            "seconds": statistics.median(spent),
            "to_plain": statistics.median(spent) / base,
            "to_one_head": statistics.median(spent) / one,
            "flops_to_one_head": flops(a, heads) / flops(a, 1),
        }
        row = rows[name]
        if a.peak_tflops:
            row["mfu"] = flops(a, heads) / row["seconds"] / (a.peak_tflops * 1e12)
        print(
            f"{name:24} {row['seconds']:7.3f} {row['to_plain']:9.3f} {row['to_one_head']:9.3f} "
            f"{row['flops_to_one_head']:15.3f}"
            + (f"  MFU {row['mfu']:.1%}" if a.peak_tflops else "")
        )
    if a.profile:
        print_profile(a)
    memory = {}
    print("\npeak of a step above the parameters; weights, gradients and moments are 4x of these")
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")  # of the processes to come
    for in_turn in (False, True):
        a.in_turn = in_turn
        for heads in (1, 2, 4, 8):
            above, parameters = measured_peak(a, heads)
            name = f"H = {heads}" + (", in turn" if in_turn else "")
            state = 3 * parameters
            memory[name] = {"peak": above, "parameters": parameters, "beyond_state": above - state}
            print(
                f"{name:24} {above / 2**20:8.0f} MiB, parameters {parameters / 2**20:6.0f} MiB, "
                f"beyond gradients and moments {(above - state) / 2**20:7.0f} MiB"
            )
    a.json.parent.mkdir(exist_ok=True)
    a.json.write_text(json.dumps({"size": a.size, "time": rows, "memory": memory}, indent=2))


if __name__ == "__main__":
    main()
