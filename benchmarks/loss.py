"""Time, memory and error of the cross entropy of H heads, side by side in one run.

    python benchmarks/loss.py [--tokens 512] [--heads 4] [--width 256] [--vocab 16000] [--rounds 5]

Peers: all logits at once; one head at a time; `torch.nn.functional.linear_cross_entropy` where torch has
it. Ours at 100, 70 and 30 % of the targets kept. Times are forward and backward, CPU seconds of this
process, as the median over alternating rounds; memory is the peak above the inputs, one process per
variant; the error of the gradient is against float64.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from wmtp.losses import linear_cross_entropy
from wmtp.training.cost import peak_memory_bytes, reset_peak_memory

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def naive(hidden, weight, labels, weights):
    ce = F.cross_entropy((hidden @ weight.T).float(), labels, reduction="none")
    return (ce * weights).sum()


def per_head(hidden, weight, labels, weights, heads):
    parts = zip(hidden.chunk(heads), labels.chunk(heads), weights.chunk(heads), strict=True)
    return sum(naive(h, weight, y, w) for h, y, w in parts)


def torch_chunked(hidden, weight, labels, weights):
    ce = F.linear_cross_entropy(hidden, weight, labels, reduction="none")
    return (ce * weights).sum()


def ours(hidden, weight, labels, weights):
    return (linear_cross_entropy(hidden, weight, labels) * weights).sum()


def variants(heads: int) -> dict[str, tuple[Loss, float]]:
    found: dict[str, tuple[Loss, float]] = {
        "naive, all logits": (naive, 1.0),
        "naive, per head": (lambda h, w, y, k: per_head(h, w, y, k, heads), 1.0),
    }
    if hasattr(F, "linear_cross_entropy"):
        found["torch chunked"] = (torch_chunked, 1.0)
    return found | {f"wmtp, {share:.0%} kept": (ours, share) for share in (1.0, 0.7, 0.3)}


def inputs(a: argparse.Namespace, share: float, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    num = a.tokens * a.heads
    hidden = torch.randn(num, a.width, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(a.vocab, a.width, generator=generator, dtype=dtype) / a.width**0.5
    labels = torch.randint(0, a.vocab, (num,), generator=generator)
    kept = (torch.rand(num, generator=generator) < share).to(dtype)
    return hidden, weight.requires_grad_(), labels, kept


def seconds(loss: Loss, tensors) -> float:
    started = time.process_time()
    loss(*tensors).backward()
    return time.process_time() - started


def peak(name: str, a: argparse.Namespace, queue) -> None:
    """Run in a process of its own: put the peak above the inputs, gradients included."""
    torch.set_num_threads(1)
    loss, share = variants(a.heads)[name]
    tensors = inputs(a, share)
    warm = argparse.Namespace(**{**vars(a), "tokens": 8})
    loss(*inputs(warm, share)).backward()
    reset_peak_memory("cpu")
    before = peak_memory_bytes("cpu")
    loss(*tensors).backward()
    queue.put(peak_memory_bytes("cpu") - before)


def measured_peak(name: str, a: argparse.Namespace) -> int:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak, args=(name, a, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def gradient_error(loss: Loss, a: argparse.Namespace) -> float:
    small = argparse.Namespace(**{**vars(a), "tokens": 32, "vocab": min(a.vocab, 4000)})
    exact = inputs(small, 1.0, torch.float64)
    naive(*exact).backward()
    tensors = [t.detach() for t in exact]
    tensors = [t.float() if t.is_floating_point() else t for t in tensors]
    tensors[0].requires_grad_(), tensors[1].requires_grad_()
    loss(*tensors).backward()
    found, want = tensors[1].grad.double(), exact[1].grad
    return float((found - want).norm() / want.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("tokens", 512), ("heads", 4), ("width", 256), ("vocab", 16000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    torch.set_num_threads(1)
    found = variants(a.heads)
    times: dict[str, list[float]] = {name: [] for name in found}
    for round_ in range(a.rounds + 1):
        for name, (loss, share) in found.items():
            spent = seconds(loss, inputs(a, share))
            if round_:  # the first round warms up
                times[name].append(spent)
    rows = {
        name: {
            "seconds": statistics.median(times[name]),
            "peak_bytes": measured_peak(name, a),
            "gradient_error": gradient_error(loss, a),
        }
        for name, (loss, _) in found.items()
    }
    base = rows["naive, all logits"]
    print(f"{a.tokens} tokens x {a.heads} heads, D {a.width}, V {a.vocab}, float32, one thread")
    print(f"{'':20} {'CPU s':>7} {'ratio':>6} {'peak MiB':>9} {'ratio':>6} {'gradient error':>15}")
    for name, row in rows.items():
        row["time_ratio"] = row["seconds"] / base["seconds"]
        row["memory_ratio"] = row["peak_bytes"] / base["peak_bytes"]
        print(
            f"{name:20} {row['seconds']:7.3f} {row['time_ratio']:6.2f} "
            f"{row['peak_bytes'] / 2**20:9.1f} {row['memory_ratio']:6.3f} {row['gradient_error']:15.1e}"
        )
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "loss.json").write_text(json.dumps({"settings": vars(a), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
