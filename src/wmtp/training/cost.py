"""What a run costs: floating-point operations and peak memory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from wmtp.modeling.mtp import MTPModel


def training_flops(model: MTPModel, tokens: int, mean_length: float) -> float:
    """Return the FLOPs of a forward and backward over `tokens` tokens.

    `6 N + 12 L D S` per token (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): N counts the
    parameters of all matrix products, the unembedding once per head; L the decoder layers, further
    heads included; S is the mean sequence length. Frozen parameters, which get no gradient, count
    4 instead of 6. What token selection saves is not deducted.
    """
    embedding = model.backbone.get_input_embeddings().weight
    unembedding = model.backbone.get_output_embeddings().weight
    both = {id(embedding), id(unembedding)}
    body = sum(p.numel() * _passes(p) for p in model.parameters() if id(p) not in both)
    products = body + model.num_heads * unembedding.numel() * _passes(unembedding)
    further = (model.num_heads - 1) * model.num_head_layers
    layers = model.config.num_hidden_layers + further
    attention = 12 * layers * model.config.hidden_size * mean_length
    return float(tokens * (2 * products + attention))


def _passes(parameter: Tensor) -> int:
    """Return how many products a parameter takes part in: forward, to its input, to itself."""
    return 3 if parameter.requires_grad else 2


def num_parameters(model: nn.Module) -> int:
    """Return the number of distinct parameters."""
    return sum(p.numel() for p in model.parameters())


def reset_peak_memory(device: str) -> None:
    """Start measuring the peak anew, where the system lets us."""
    if device == "cuda":  # pragma: gpu
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):  # not Linux, or not allowed: the peak is then that of the process
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: str) -> int:
    """Return the peak memory since `reset_peak_memory`: of the GPU, or resident of this process."""
    if device == "cuda":  # pragma: gpu
        return int(torch.cuda.max_memory_allocated())
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
