"""The cross entropy that never holds all logits. Legend: N targets, D width, V vocabulary."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wmtp.losses.backends import Backend, peer_kernel, resolve
from wmtp.losses.chunked import ChunkedCrossEntropy, ChunkedWeightedCrossEntropy, LogitForm
from wmtp.losses.horizon import IGNORE_INDEX


@torch.compiler.disable
def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, " N"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = IGNORE_INDEX,
    backend: Backend = "auto",
) -> Float[Tensor, " N"]:
    """Return the cross entropy of every target in nats, unreduced, float32 (float64 for float64).

    The same numbers as this, without ever holding the `[N, V]` logits::

        logits = logit_scale * (hidden @ weight.T + bias)
        logits = softcap * tanh(logits / softcap)            # where softcap is given
        ce = cross_entropy(logits.float(), labels, reduction="none", ignore_index=ignore_index)

    Ignored targets give 0. Memory is one chunk of logits, whatever N: the backward recomputes them
    chunk by chunk, passing over every target whose incoming gradient is zero. Where the weights of the
    targets are known beforehand, `weighted_linear_cross_entropy` saves the recomputation. Under autocast
    the products are in its precision, on a CPU always in float32 or float64. A label outside `[0, V)`
    other than `ignore_index` is a `ValueError`.

    The backend changes the speed, and the result by rounding alone: `torch` multiplies by torch's own
    matrix product, `onednn` by oneDNN's (x86-64 CPUs), `liger` and `cut-cross-entropy` call the kernels
    of those packages on a GPU. `auto` is `onednn` where it runs, else `torch`. A backend that cannot run
    here is a `ValueError` that says why.
    """
    valid = _valid(hidden, weight, labels, bias, ignore_index)
    chosen = resolve(backend, hidden.device, bias is not None)
    if chosen in ("liger", "cut-cross-entropy"):
        return _by_peer(chosen, hidden, weight, bias, labels, valid, float(logit_scale), softcap)
    form = LogitForm(_compute_dtype(hidden), float(logit_scale), softcap, chosen == "onednn")
    ce: Tensor = ChunkedCrossEntropy.apply(hidden, weight, bias, labels, valid, form, False)[0]
    return ce


@torch.compiler.disable
def linear_cross_entropy_and_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, " N"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = IGNORE_INDEX,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return the `ce` of `linear_cross_entropy`, and the detached entropy of its softmax in nats.

    Both come from the same logits, a chunk at a time; ignored targets have entropy 0. Peers' kernels give
    no entropy: with those backends `torch` is used.
    """
    valid = _valid(hidden, weight, labels, bias, ignore_index)
    onednn = resolve(backend, hidden.device, bias is not None) == "onednn"
    form = LogitForm(_compute_dtype(hidden), float(logit_scale), softcap, onednn)
    ce, entropy = ChunkedCrossEntropy.apply(hidden, weight, bias, labels, valid, form, True)
    return ce, entropy


@torch.compiler.disable
def weighted_linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, " N"],
    target_weights: Float[Tensor, " M"],
    *,
    weigh_rest: Callable[[Float[Tensor, " M"]], Float[Tensor, " R"]] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = IGNORE_INDEX,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, ""], Float[Tensor, " N"]]:
    """Return `sum(target_weights * ce)` and the detached `ce` of `linear_cross_entropy`.

    The weights are constants: no gradient goes to them. The gradient of the sum is formed while a
    chunk's logits are there, so they are computed once: 1 + 2p products of `[N, D] x [D, V]` at a share
    p of nonzero weights, where `linear_cross_entropy` takes 1 + 3p. Between forward and backward it
    holds the gradients themselves. A second backward through it is a `RuntimeError`. Peers' kernels
    have no such path: with those backends it is `linear_cross_entropy`, weighted.

    `weigh_rest` is for weights that depend on the cross entropy of some targets: `target_weights` are
    then those of the first M, and `weigh_rest(ce[:M])` gives those of the other R = N - M. Where that is
    0 the loss is never computed and given as 0.
    """
    target_weights = target_weights.detach()
    if weigh_rest is None and target_weights.shape != labels.shape:
        raise _misfit("target_weights [N]", target_weights, "labels [N]", labels)
    valid = _valid(hidden, weight, labels, bias, ignore_index)
    chosen = resolve(backend, hidden.device, bias is not None)
    if chosen in ("liger", "cut-cross-entropy"):
        num, by_peer = len(target_weights), functools.partial(_by_peer, chosen)
        options = float(logit_scale), softcap
        ce = by_peer(hidden[:num], weight, bias, labels[:num], valid[:num], *options)
        total = (target_weights * ce).sum()
        if weigh_rest is None:
            return total, ce.detach()
        rest = weigh_rest(ce.detach()).detach()
        kept = valid[num:] & rest.ne(0)
        further = by_peer(hidden[num:], weight, bias, labels[num:], kept, *options)
        return total + (rest * further).sum(), torch.cat([ce, further]).detach()
    form = LogitForm(_compute_dtype(hidden), float(logit_scale), softcap, chosen == "onednn")
    learns = torch.is_grad_enabled()
    total, ce = ChunkedWeightedCrossEntropy.apply(
        hidden, weight, bias, labels, valid, target_weights, weigh_rest, form, learns
    )
    return total, ce


def _by_peer(
    backend: Backend,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    valid: Tensor,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """Return the cross entropy by a peer's kernel, over the targets that count."""
    dtype = _compute_dtype(hidden)
    rows = valid.nonzero().squeeze(1)
    with torch.autocast(hidden.device.type, enabled=False):
        ce = peer_kernel(backend)(
            hidden[rows].to(dtype) * scale,
            weight.to(dtype),
            None if bias is None else bias.to(dtype) * scale,
            labels[rows],
            softcap,
        )
    return ce.new_zeros(len(labels), dtype=torch.float32).index_copy(0, rows, ce.float())


def _valid(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, ignore_index: int
) -> Tensor:
    """Return which targets count; refuse shapes that do not fit, and labels that are no token."""
    if labels.dim() != 1 or hidden.shape != (len(labels), weight.shape[-1]):
        raise _misfit("hidden [N,D]", hidden, "labels [N] and weight [V,D]", labels, weight)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise _misfit("bias [V]", bias, "weight [V,D]", weight)
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"labels must be int64 or int32, found {labels.dtype}")
    valid = labels != ignore_index
    outside = valid & ((labels < 0) | (labels >= len(weight)))
    if bool(outside.any()):
        raise ValueError(
            f"label {int(labels[outside][0])} is outside the vocabulary of {len(weight)}"
        )
    return valid


def _misfit(name: str, tensor: Tensor, others: str, *given: Tensor) -> ValueError:
    shapes = " and ".join(str(list(other.shape)) for other in given)
    return ValueError(f"{name} is {list(tensor.shape)}, which does not fit {others}: {shapes}")


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype of the matrix products: CPUs without half-precision units emulate slowly."""
    device, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    return torch.promote_types(dtype, torch.float32) if device == "cpu" else dtype
