"""The cross entropy that never holds all logits. Legend: N targets, D width, V vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wmtp.losses.horizon import IGNORE_INDEX

# Logits of one chunk hold at most about this many elements (32 MiB in float32), whatever the vocabulary.
_CHUNK_ELEMENTS = 1 << 23


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
    """
    valid = _valid(labels, weight.shape[0], ignore_index)
    form = _LogitForm(_compute_dtype(hidden), float(logit_scale), softcap)
    ce: Tensor = _CrossEntropy.apply(hidden, weight, bias, labels, valid, form)
    return ce


@torch.compiler.disable
def weighted_linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, " N"],
    target_weights: Float[Tensor, " N"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[Float[Tensor, ""], Float[Tensor, " N"]]:
    """Return `sum(target_weights * ce)` and the detached `ce` of `linear_cross_entropy`.

    The weights are constants: no gradient goes to them. The gradient of the sum is formed while a
    chunk's logits are there, so they are computed once: 1 + 2p products of `[N, D] x [D, V]` at a share
    p of nonzero weights, where `linear_cross_entropy` takes 1 + 3p. Between forward and backward it
    holds the gradients themselves. A second backward through it is a `RuntimeError`.
    """
    valid = _valid(labels, weight.shape[0], ignore_index)
    form = _LogitForm(_compute_dtype(hidden), float(logit_scale), softcap)
    learns = torch.is_grad_enabled()
    total, ce = _WeightedCrossEntropy.apply(
        hidden, weight, bias, labels, valid, target_weights.detach(), form, learns
    )
    return total, ce


def _valid(labels: Tensor, vocab_size: int, ignore_index: int) -> Tensor:
    """Return which targets count; refuse labels that are no token."""
    valid = labels != ignore_index
    outside = valid & ((labels < 0) | (labels >= vocab_size))
    if bool(outside.any()):
        raise ValueError(
            f"label {int(labels[outside][0])} is outside the vocabulary of {vocab_size}"
        )
    return valid


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype of the matrix products: CPUs without half-precision units emulate slowly."""
    device, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    return torch.promote_types(dtype, torch.float32) if device == "cpu" else dtype


@dataclass(frozen=True)
class _LogitForm:
    """How logits come from the product with the unembedding; `dtype` is that of the products."""

    dtype: torch.dtype
    scale: float
    softcap: float | None

    @property
    def wide(self) -> torch.dtype:
        """The dtype of logits and sums."""
        return torch.promote_types(self.dtype, torch.float32)


class _Projection:
    """Logits of a few rows at a time, all in one buffer, and what becomes of them there."""

    def __init__(self, weight: Tensor, bias: Tensor | None, form: _LogitForm) -> None:
        self.weight = weight.to(form.dtype)
        self.bias = bias
        self.form = form
        self.num_rows = max(16, _CHUNK_ELEMENTS // len(weight))
        self._buffer = weight.new_empty(0, dtype=form.wide)

    def chunks(self, chosen: Tensor) -> Iterator[Tensor]:
        """Yield the indices of the chosen rows, as many at a time as the buffer takes."""
        rows = chosen.nonzero().squeeze(1)
        if len(rows) == 0:
            return
        num_rows = min(self.num_rows, len(rows))
        if self._buffer.numel() < num_rows * len(self.weight):
            self._buffer = self._buffer.new_empty(num_rows, len(self.weight))
        yield from rows.split(num_rows)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return scaled and capped logits in the buffer; the next call overwrites them."""
        out = self._buffer[: len(hidden)]
        if hidden.dtype == out.dtype:
            torch.mm(hidden, self.weight.T, out=out)
        else:
            out.copy_(hidden @ self.weight.T)
        if self.bias is not None:
            out += self.bias
        if self.form.scale != 1.0:
            out *= self.form.scale
        if self.form.softcap is not None:
            out.div_(self.form.softcap).tanh_().mul_(self.form.softcap)
        return out

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of every row; the logits are used up."""
        return -_in_place(torch.log_softmax, logits).gather(1, labels[:, None]).squeeze(1)

    def gradient(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of every row's cross entropy, in place of its logits, and that itself.

        The gradient is that to the bare product, but for the factor `scale`.
        """
        picked = logits.gather(1, labels[:, None])
        largest = logits.amax(1, keepdim=True)
        slope = None
        if self.form.softcap is not None:
            slope = (logits / self.form.softcap).square_().neg_().add_(1)
        grad = _in_place(torch.softmax, logits)
        # The largest probability is exp(largest - log-sum-exp): this spares a pass over the logits.
        ce = ((largest - picked) - grad.amax(1, keepdim=True).log()).squeeze(1)
        grad.scatter_add_(1, labels[:, None], torch.full_like(picked, -1.0))
        return (grad if slope is None else grad.mul_(slope)), ce


def _in_place(softmax: Any, logits: Tensor) -> Tensor:
    """Return `softmax(logits)` over the vocabulary; on a CPU, row by row into the same memory."""
    out = logits if logits.device.type == "cpu" else None
    found: Tensor = softmax(logits, 1, out=out)
    return found


class _Gradients:
    """Sums of the gradients to hidden states, unembedding and bias, over chunks of rows."""

    def __init__(self, projection: _Projection, hidden: Tensor, needed: tuple[bool, ...]) -> None:
        weight, bias, wide = projection.weight, projection.bias, projection.form.wide
        self.projection = projection
        self.hidden = torch.zeros_like(hidden, dtype=wide) if needed[0] else None
        self.weight = torch.zeros_like(weight, dtype=wide) if needed[1] else None
        self.bias = torch.zeros_like(bias, dtype=wide) if needed[2] and bias is not None else None

    def add(self, rows: Tensor, grad: Tensor, hidden: Tensor, factors: Tensor) -> None:
        """Take a chunk: `grad` per row as `_Projection.gradient` gives it, times `factors`."""
        form = self.projection.form
        factors = factors.to(form.wide) * form.scale
        if self.bias is not None:
            self.bias += grad.T @ factors
        largest = torch.ones((), device=grad.device)
        if form.dtype != form.wide:
            # Half precision: scale first, relative to the largest, so that nothing underflows.
            largest = factors.abs().amax().clamp(min=1e-30)
            grad = (grad * (factors / largest)[:, None]).to(form.dtype)
            factors = largest.expand(len(rows))
        if self.hidden is not None:
            product = (grad @ self.projection.weight).to(form.wide)
            self.hidden[rows] = product * factors[:, None]
        if self.weight is None:
            return
        if form.dtype == form.wide:
            self.weight.addmm_(grad.T, hidden * factors[:, None])
        else:
            self.weight += (grad.T @ hidden) * largest

    def result(self, *inputs: Tensor | None, factor: Tensor | None = None) -> list[Tensor | None]:
        """Return the three gradients, times `factor`, in the dtypes of their inputs; used up here."""
        found: list[Tensor | None] = []
        for gradient, tensor in zip((self.hidden, self.weight, self.bias), inputs, strict=True):
            if gradient is not None and factor is not None:
                gradient *= factor
            found.append(None if gradient is None or tensor is None else gradient.to(tensor.dtype))
        return found


class _CrossEntropy(torch.autograd.Function):
    """Forms gradients in the backward, from recomputed logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        valid: Tensor,
        form: _LogitForm,
    ) -> Tensor:
        ce = hidden.new_zeros(len(labels), dtype=form.wide)
        with torch.autocast(hidden.device.type, enabled=False):
            projection = _Projection(weight, bias, form)
            for rows in projection.chunks(valid):
                logits = projection.logits(hidden[rows].to(form.dtype))
                ce[rows] = projection.cross_entropy(logits, labels[rows])
        ctx.save_for_backward(hidden, weight, bias, labels, valid)
        ctx.form = form
        return ce

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_ce: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, valid = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):
            projection = _Projection(weight, bias, ctx.form)
            gradients = _Gradients(projection, hidden, ctx.needs_input_grad[:3])
            for rows in projection.chunks(valid & grad_ce.ne(0)):
                chunk = hidden[rows].to(ctx.form.dtype)
                grad, _ = projection.gradient(projection.logits(chunk), labels[rows])
                gradients.add(rows, grad, chunk, grad_ce[rows])
        return *gradients.result(hidden, weight, bias), None, None, None


class _WeightedCrossEntropy(torch.autograd.Function):
    """Forms gradients in the forward, while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        valid: Tensor,
        target_weights: Tensor,
        form: _LogitForm,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        ce = hidden.new_zeros(len(labels), dtype=form.wide)
        kept = valid & target_weights.ne(0) & learns
        with torch.autocast(hidden.device.type, enabled=False):
            projection = _Projection(weight, bias, form)
            gradients = _Gradients(projection, hidden, ctx.needs_input_grad[:3]) if learns else None
            for rows in projection.chunks(kept):
                assert gradients is not None
                chunk = hidden[rows].to(form.dtype)
                grad, ce[rows] = projection.gradient(projection.logits(chunk), labels[rows])
                gradients.add(rows, grad, chunk, target_weights[rows])
            for rows in projection.chunks(valid & ~kept):
                logits = projection.logits(hidden[rows].to(form.dtype))
                ce[rows] = projection.cross_entropy(logits, labels[rows])
        ctx.gradients = gradients
        ctx.save_for_backward(hidden, weight, bias)
        ctx.mark_non_differentiable(ce)
        return (target_weights * ce).sum(), ce

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("a second backward through weighted_linear_cross_entropy")
        gradients, ctx.gradients = ctx.gradients, None
        found = gradients.result(*ctx.saved_tensors, factor=grad_total)
        return *found, None, None, None, None, None
