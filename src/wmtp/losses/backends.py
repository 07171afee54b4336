"""Which code computes the cross entropy: ours, or a peer's kernels."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Backend = Literal["auto", "torch", "onednn", "liger", "cut-cross-entropy"]

_MODULES = {"liger": "liger_kernel", "cut-cross-entropy": "cut_cross_entropy"}
# (hidden [n, D], weight [V, D], bias [V] or None, labels [n], softcap) -> cross entropy [n]
Kernel = Callable[[Tensor, Tensor, Tensor | None, Tensor, float | None], Tensor]


def resolve(backend: Backend, device: torch.device, has_bias: bool) -> Backend:
    """Return the backend that `auto` means on a device; others as they are.

    One that cannot run there, or not with a bias, is a `ValueError` that says why.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"no loss backend {backend!r}; known: {', '.join(get_args(Backend))}")
    if backend == "auto":
        return "onednn" if _lacks("onednn", device) is None else "torch"
    lacks = _lacks(backend, device)
    if backend == "cut-cross-entropy" and has_bias and lacks is None:
        lacks = "it takes no bias, which this unembedding has. Set loss_backend to auto."
    if lacks is not None:
        raise ValueError(f"loss backend {backend}: {lacks}")
    return backend


def _lacks(backend: Backend, device: torch.device) -> str | None:
    """Return why the backend cannot run on the device, None where it can."""
    if backend == "onednn":
        if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
            return "it computes on x86-64 CPUs only. Set loss_backend to auto."
        there = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
        if not there or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            return "this build of torch has no oneDNN. Set loss_backend to auto."
    if module := _MODULES.get(backend):
        interpreted = backend == "liger" and os.environ.get("TRITON_INTERPRET") == "1"
        if device.type != "cuda" and not interpreted:
            return (
                f"its kernels need a GPU, the loss is on {device.type}. Set loss_backend to auto."
            )
        if importlib.util.find_spec(module) is None:
            return (
                f"the package {module} is not installed. `pip install {module.replace('_', '-')}`."
            )
    return None


def peer_kernel(backend: Backend) -> Kernel:
    """Return the peer's unreduced cross entropy. Theirs is the arithmetic, and the memory they take."""
    return _liger if backend == "liger" else _cut_cross_entropy


def _liger(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, softcap: float | None
) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    found: Tensor = liger_fused_linear_cross_entropy(
        hidden,
        weight,
        labels,
        bias=bias,
        softcap=softcap,
        reduction="none",
        accum_dtype=torch.float32,
    )
    return found


def _cut_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, softcap: float | None
) -> Tensor:
    assert bias is None, "refused by resolve"
    from cut_cross_entropy import linear_cross_entropy

    # Its default leaves out small gradients; without, the result is exact up to rounding.
    found: Tensor = linear_cross_entropy(
        hidden, weight, labels, softcap=softcap, reduction="none", filter_eps=None
    )
    return found
