"""Targets of every head and the cross entropy that never holds all logits.

Legend: B batch, S sequence, H heads (horizon), N targets, D width, V vocabulary. Head k (from 0) at
position t predicts the token at t + k + 1.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORE_INDEX = -100

# Logits of one chunk hold about this many elements (32 MiB in float32), whatever the vocabulary.
_CHUNK_ELEMENTS = 1 << 23


def horizon_labels(
    labels: Int[Tensor, "B S"], num_heads: int, document_ids: Int[Tensor, "B S"] | None = None
) -> Int[Tensor, "B S H"]:
    """Return the target of every position and head: `out[b, t, k] = labels[b, t + k + 1]`.

    `labels` holds the token itself, or -100 where it must not be learned (prompt, padding). Targets
    past the end of the sequence, or in another packed document than position t, are -100.
    """
    if num_heads < 1:
        raise ValueError(f"num_heads must be at least 1, found {num_heads}")
    batch, length = labels.shape
    out = labels.new_full((batch, length, num_heads), IGNORE_INDEX)
    for k in range(min(num_heads, length - 1)):
        out[:, : length - k - 1, k] = labels[:, k + 1 :]
        if document_ids is not None:
            other = document_ids[:, : length - k - 1] != document_ids[:, k + 1 :]
            out[:, : length - k - 1, k].masked_fill_(other, IGNORE_INDEX)
    return out


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

    Ignored targets give 0. Memory is one chunk of logits: the forward keeps one log-sum-exp per
    target and the backward recomputes the logits chunk by chunk, passing over every target whose
    incoming gradient is zero. A label outside `[0, V)` other than `ignore_index` is a `ValueError`.
    """
    valid = labels != ignore_index
    outside = valid & ((labels < 0) | (labels >= weight.shape[0]))
    if not torch.compiler.is_compiling() and bool(outside.any()):
        raise ValueError(
            f"label {int(labels[outside][0])} is outside the vocabulary of {weight.shape[0]}"
        )
    ce: Tensor = _LinearCrossEntropy.apply(
        hidden, weight, bias, labels, valid, float(logit_scale), softcap
    )
    return ce


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype of the matrix products: CPUs without half-precision units emulate slowly."""
    if hidden.device.type == "cpu" and hidden.dtype in (torch.bfloat16, torch.float16):
        return torch.float32
    return hidden.dtype


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """Return scaled and capped logits of one chunk, at least float32."""
    logits = hidden @ weight.T
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if bias is not None:
        logits += bias
    if scale != 1.0:
        logits *= scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        valid: Tensor,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        dtype = _compute_dtype(hidden)
        rows = valid.nonzero().squeeze(1)
        result_dtype = torch.promote_types(hidden.dtype, torch.float32)
        log_sum_exp = hidden.new_zeros(len(labels), dtype=result_dtype)
        ce = torch.zeros_like(log_sum_exp)
        with torch.autocast(hidden.device.type, enabled=False):
            compute_weight = weight.to(dtype)
            for chunk in rows.split(max(16, _CHUNK_ELEMENTS // weight.shape[0])):
                logits = _logits(hidden[chunk].to(dtype), compute_weight, bias, scale, softcap)
                log_sum_exp[chunk] = torch.logsumexp(logits, dim=1)
                picked = logits.gather(1, labels[chunk, None]).squeeze(1)
                ce[chunk] = log_sum_exp[chunk] - picked
        ctx.save_for_backward(hidden, weight, bias, labels, valid, log_sum_exp)
        ctx.scale, ctx.softcap = scale, softcap
        return ce

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_ce: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, valid, log_sum_exp = ctx.saved_tensors
        scale, softcap = ctx.scale, ctx.softcap
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        dtype = _compute_dtype(hidden)
        wide = grad_ce.dtype
        grad_hidden = torch.zeros_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if need_bias else None
        rows = (valid & grad_ce.ne(0)).nonzero().squeeze(1)
        with torch.autocast(hidden.device.type, enabled=False):
            compute_weight = weight.to(dtype)
            for chunk in rows.split(max(16, _CHUNK_ELEMENTS // weight.shape[0])):
                chunk_hidden = hidden[chunk].to(dtype)
                logits = _logits(chunk_hidden, compute_weight, bias, scale, softcap)
                grad = torch.exp(logits - log_sum_exp[chunk, None])
                grad.scatter_add_(1, labels[chunk, None], torch.full_like(grad[:, :1], -1.0))
                grad *= grad_ce[chunk, None]
                if softcap is not None:
                    grad *= 1 - (logits / softcap).square()
                if scale != 1.0:
                    grad *= scale
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
                grad = grad.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[chunk] = (grad @ compute_weight).to(hidden.dtype)
                if grad_weight is not None:
                    grad_weight += grad.T @ chunk_hidden
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
        )
