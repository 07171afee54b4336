"""Time, memory and error of the cross entropy of H heads, side by side in one run.

    python benchmarks/loss.py [--tokens 512] [--heads 4] [--width 512] [--vocab 32000] [--rounds 3]
                              [--memory-tokens 2048]
    python benchmarks/loss.py --device cuda --dtype bfloat16 --tokens 16384 --memory-tokens 16384 \
                              --width 4096 --vocab 32000            # and --vocab 128000, --heads 1, 2, 8

Peers: all logits at once; one head at a time; `torch.nn.functional.linear_cross_entropy` where torch has
it; on a GPU cut-cross-entropy and Liger where they are installed. Ours with the weights known before the
loss and not, at 100, 70 and 30 % of the targets kept.

Time is forward and backward: CPU seconds of one thread, or wall seconds on a GPU; the median over rounds
in which the variants alternate. Memory is measured in one process per variant: the peak above the
inputs, which the gradients themselves are part of, and what remains without them. The error is that of
the unembedding's gradient against float64, relative (Frobenius), at a smaller size. What the memory of a
GPU does not hold has no figure, and ratios are to the first variant that has one.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wmtp.losses import linear_cross_entropy, weighted_linear_cross_entropy
from wmtp.training.cost import peak_memory_bytes, reset_peak_memory

# (hidden [N, D], unembedding [V, D], labels [N], weights [N], heads) -> weighted sum
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


def naive(hidden, weight, labels, weights, heads):
    ce = F.cross_entropy((hidden @ weight.T).float(), labels, reduction="none")
    return (ce * weights).sum()


def per_head(hidden, weight, labels, weights, heads):
    parts = zip(hidden.chunk(heads), labels.chunk(heads), weights.chunk(heads), strict=True)
    return sum(naive(h, weight, y, w, 1) for h, y, w in parts)


def torch_chunked(hidden, weight, labels, weights, heads):
    ce = F.linear_cross_entropy(hidden, weight, labels, reduction="none")
    return (ce * weights).sum()


def cut(hidden, weight, labels, weights, heads):
    from cut_cross_entropy import linear_cross_entropy as cce

    return (cce(hidden, weight, labels, reduction="none") * weights).sum()


def liger(hidden, weight, labels, weights, heads):
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as fused

    return (fused(hidden, weight, labels, reduction="none") * weights).sum()


def ours(hidden, weight, labels, weights, heads, backend="auto"):
    return (linear_cross_entropy(hidden, weight, labels, backend=backend) * weights).sum()


def ours_known(hidden, weight, labels, weights, heads, backend="auto"):
    return weighted_linear_cross_entropy(hidden, weight, labels, weights, backend=backend)[0]


def variants(device: str) -> dict[str, tuple[Loss, float]]:
    """Return every variant with the share of targets that it keeps."""
    found: dict[str, tuple[Loss, float]] = {
        "naive, all logits": (naive, 1.0),
        "naive, per head": (per_head, 1.0),
    }
    if hasattr(F, "linear_cross_entropy"):
        found["torch chunked"] = (torch_chunked, 1.0)
    for name, module, loss in (
        ("cut-cross-entropy", "cut_cross_entropy", cut),
        ("Liger", "liger_kernel", liger),
    ):
        if device == "cuda" and importlib.util.find_spec(module):  # they have no CPU kernels
            found |= {f"{name}, {p:.0%}": (loss, p) for p in (1.0, 0.7)}
    if device == "cpu":  # what is due to the product itself, and what to the rest
        plain = functools.partial(ours, backend="torch")
        found["wmtp, torch's product"] = (plain, 1.0)
        found["wmtp known, torch's p."] = (functools.partial(ours_known, backend="torch"), 1.0)
    shares = (1.0, 0.7, 0.3)
    found |= {f"wmtp, {p:.0%}": (ours, p) for p in shares}
    return found | {f"wmtp known, {p:.0%}": (ours_known, p) for p in shares}


def inputs(a: argparse.Namespace, tokens: int, share: float, dtype: torch.dtype):
    place = {"generator": torch.Generator(a.device).manual_seed(0), "device": a.device}
    num = tokens * a.heads
    hidden = torch.randn(num, a.width, **place)
    weight = torch.randn(a.vocab, a.width, **place) / a.width**0.5
    labels = torch.randint(0, a.vocab, (num,), **place)
    kept = (torch.rand(num, **place) < share).float()
    hidden, weight = (x.to(dtype).requires_grad_() for x in (hidden, weight))
    return hidden, weight, labels, kept, a.heads


def now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()  # pragma: gpu
    return time.perf_counter()


def seconds(loss: Loss, share: float, a: argparse.Namespace, dtype: torch.dtype) -> float:
    """Return the time of a forward and backward; NaN where the GPU's memory does not hold it."""
    tensors = inputs(a, a.tokens, share, dtype)
    started = now(a.device)
    try:
        loss(*tensors).backward()
    except torch.OutOfMemoryError:
        return math.nan
    return now(a.device) - started


def peak(name: str, a: argparse.Namespace, dtype: torch.dtype, queue) -> None:
    """Run in a process of its own: put the peak above the inputs."""
    torch.set_num_threads(1)
    loss, share = variants(a.device)[name]
    loss(*inputs(a, 8, share, dtype)).backward()
    tensors = inputs(a, a.memory_tokens, share, dtype)
    reset_peak_memory(a.device)
    before = peak_memory_bytes(a.device)
    try:
        loss(*tensors).backward()
    except torch.OutOfMemoryError:
        queue.put(math.nan)
        return
    queue.put(peak_memory_bytes(a.device) - before)


def measured_peak(name: str, a: argparse.Namespace, dtype: torch.dtype) -> float:
    # Lets glibc give back what is freed: else its holes are measured too.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak, args=(name, a, dtype, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def gradient_error(loss: Loss, a: argparse.Namespace, dtype: torch.dtype) -> float:
    small = argparse.Namespace(**{**vars(a), "vocab": min(a.vocab, 4000)})
    tensors = inputs(small, 32, 1.0, dtype)
    loss(*tensors).backward()
    exact = [x.detach().double() if x.is_floating_point() else x for x in tensors[:4]]
    exact[0].requires_grad_(), exact[1].requires_grad_()
    (F.cross_entropy(exact[0] @ exact[1].T, exact[2], reduction="none") * exact[3]).sum().backward()
    return float((tensors[1].grad.double() - exact[1].grad).norm() / exact[1].grad.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"tokens": 512, "heads": 4, "width": 512, "vocab": 32000, "rounds": 3}
    for name, default in (sizes | {"memory-tokens": 2048}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/loss.json")
    a = parser.parse_args()
    dtype = getattr(torch, a.dtype)
    torch.set_num_threads(1)
    found = variants(a.device)
    times: dict[str, list[float]] = {name: [] for name in found}
    for round_ in range(a.rounds + 1):
        for name, (loss, share) in found.items():
            spent = seconds(loss, share, a, dtype)
            if round_:  # the first round warms up
                times[name].append(spent)
    element = torch.finfo(dtype).bits // 8
    gradients = (a.memory_tokens * a.heads + a.vocab) * a.width * element
    rows = {}
    for name, (loss, _) in found.items():
        above = measured_peak(name, a, dtype)
        rows[name] = {
            "seconds": statistics.median(times[name]),
            "peak_bytes": above,
            "working_bytes": above - gradients,
            "gradient_error": gradient_error(loss, a, dtype),
        }
    base_name, base = next(
        (n, r) for n, r in rows.items() if not math.isnan(r["seconds"] + r["peak_bytes"])
    )
    print(
        f"{a.tokens} tokens x {a.heads} heads (memory: {a.memory_tokens}), D {a.width}, V {a.vocab}, "
        f"{a.dtype}, {a.device}; ratios to: {base_name}"
    )
    print(
        f"{'':22} {'s':>7} {'ratio':>6} {'peak MiB':>9} {'1 /':>6} {'working MiB':>12} {'error':>8}"
    )
    for name, row in rows.items():
        row["time_ratio"] = row["seconds"] / base["seconds"]
        row["memory_ratio"] = row["peak_bytes"] / base["peak_bytes"]
        print(
            f"{name:22} {row['seconds']:7.3f} {row['time_ratio']:6.2f} "
            f"{row['peak_bytes'] / 2**20:9.1f} {1 / row['memory_ratio']:6.1f} "
            f"{row['working_bytes'] / 2**20:12.1f} {row['gradient_error']:8.1e}"
        )
    a.json.parent.mkdir(exist_ok=True)
    settings = {k: str(v) for k, v in vars(a).items()}
    a.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
