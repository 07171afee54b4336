"""Our own backends: a chunk of logits at a time. Legend: N targets, D width, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Logits of one chunk hold at most about this many elements, whatever the vocabulary: in float32 16 MiB,
# which a CPU's cache can hold, and on a GPU 128 MiB, which its matrix products need to be efficient.
_CHUNK_ELEMENTS = 1 << 22
_GPU_CHUNK_ELEMENTS = 1 << 25
# oneDNN compiles and keeps code for every shape that it meets, and makes tensors of its own: so it gets
# parts of one shape, of at most this many rows and elements.
_PART_ROWS = 512
_PART_ELEMENTS = 1 << 19


@dataclass(frozen=True)
class LogitForm:
    """How logits come from the product with the unembedding.

    `dtype` is that of the products; `onednn` takes oneDNN's for those of float32 on a CPU.
    """

    dtype: torch.dtype
    scale: float
    softcap: float | None
    onednn: bool

    @property
    def wide(self) -> torch.dtype:
        """The dtype of logits and sums."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def takes_onednn(self) -> bool:
        """Whether the products are oneDNN's."""
        return self.onednn and self.dtype == torch.float32


def _onednn(left: Tensor, right: Tensor) -> Tensor:
    """Return `left [n, K] @ right [m, K].T`, `[n, m]`."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return found


class _Projection:
    """Logits of a few rows at a time, all in one buffer, and what becomes of them there."""

    def __init__(self, weight: Tensor, bias: Tensor | None, form: LogitForm) -> None:
        self.weight = weight.to(form.dtype)
        self.bias = bias
        self.form = form
        elements = _CHUNK_ELEMENTS if weight.device.type == "cpu" else _GPU_CHUNK_ELEMENTS
        self.num_rows = max(16, elements // len(weight))
        self._part_rows = min(self.num_rows, _PART_ROWS)
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
        form = self.form
        out = self._buffer[: len(hidden)]
        done = self._fill_by_onednn(out, hidden) if form.takes_onednn else 0
        if done < len(out) and hidden.dtype == out.dtype:
            torch.mm(hidden[done:], self.weight.T, out=out[done:])
        elif done < len(out):
            out.copy_(hidden @ self.weight.T)
        if self.bias is not None:
            out += self.bias
        if form.scale != 1.0:
            out *= form.scale
        if form.softcap is not None:
            out.div_(form.softcap).tanh_().mul_(form.softcap)
        return out

    def _fill_by_onednn(self, out: Tensor, hidden: Tensor) -> int:
        """Fill the rows of `out` that make whole parts; return how many these are."""
        rows = self._part_rows
        done = len(hidden) // rows * rows
        width = _PART_ELEMENTS // rows
        for start in range(0, done, rows):
            part = hidden[start : start + rows]
            place = out[start : start + rows]
            for columns, weight in zip(
                place.split(width, 1), self.weight.split(width), strict=True
            ):
                columns.copy_(_onednn(part, weight))
        return done

    def back(self, grad: Tensor) -> Tensor:
        """Return `grad [n, V] @ weight`, `[n, D]`."""
        if not self.form.takes_onednn:
            return grad @ self.weight
        rows = self._part_rows
        done = len(grad) // rows * rows
        parts = [_onednn(grad[i : i + rows], self.weight.T) for i in range(0, done, rows)]
        return torch.cat([*parts, grad[done:] @ self.weight])

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """Return the log-probabilities of every row; the next call may overwrite them."""
        return _in_place(torch.log_softmax, self.logits(hidden.to(self.form.dtype)))

    def cross_entropy(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of every row."""
        return -_picked(self.log_probabilities(hidden), labels)

    def gradient(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of every row's cross entropy to its logits, and that itself.

        The gradient is that to the bare product, but for the factor `scale`.
        """
        logits = self.logits(hidden)
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


def _picked(rows: Tensor, labels: Tensor) -> Tensor:
    """Return the element of every row that its label names."""
    return rows.gather(1, labels[:, None]).squeeze(1)


def _in_place(softmax: Any, logits: Tensor) -> Tensor:
    """Return `softmax(logits)` over the vocabulary; on a CPU, row by row into the same memory."""
    out = logits if logits.device.type == "cpu" else None
    found: Tensor = softmax(logits, 1, out=out)
    return found


class _Gradients:
    """Sums of the gradients to hidden states, unembedding and bias, over chunks of rows.

    They may outlive the projection: it has a buffer of logits, which nothing needs afterwards.
    """

    def __init__(
        self,
        inputs: tuple[Tensor, Tensor, Tensor | None],
        wide: torch.dtype,
        needed: Sequence[bool],
    ) -> None:
        self.dtypes = [None if tensor is None else tensor.dtype for tensor in inputs]
        self.hidden, self.weight, self.bias = (
            torch.zeros_like(tensor, dtype=wide) if is_needed and tensor is not None else None
            for tensor, is_needed in zip(inputs, needed, strict=True)
        )

    def add(
        self,
        projection: _Projection,
        rows: Tensor,
        hidden: Tensor,
        labels: Tensor,
        factors: Tensor,
    ) -> Tensor:
        """Take a chunk, whose cross entropy counts `factors` times; return the cross entropy."""
        form = projection.form
        hidden = hidden.to(form.dtype)
        grad, ce = projection.gradient(hidden, labels)
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
            product = projection.back(grad).to(form.wide)
            self.hidden[rows] = product * factors[:, None]
        if self.weight is not None and form.dtype == form.wide:
            self.weight.addmm_(grad.T, hidden * factors[:, None])
        elif self.weight is not None:
            self.weight += (grad.T @ hidden) * largest
        return ce

    def result(self, factor: Tensor | None = None) -> list[Tensor | None]:
        """Return the three gradients, times `factor`, in the dtypes of their inputs; used up here."""
        found: list[Tensor | None] = []
        for gradient, dtype in zip((self.hidden, self.weight, self.bias), self.dtypes, strict=True):
            if gradient is not None and factor is not None:
                gradient *= factor
            found.append(None if gradient is None else gradient.to(dtype))
        return found


def _refuse_second_derivatives() -> None:
    # torch's once_differentiable would give constants where the incoming gradient is one.
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the chunked cross entropy has no second derivatives. Leave out create_graph, or compute "
            "the loss from logits."
        )


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross entropy of every target; forms gradients in the backward, from recomputed logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        valid: Tensor,
        form: LogitForm,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the cross entropy, and the entropy when asked; keep the inputs alone."""
        ce = hidden.new_zeros(len(labels), dtype=form.wide)
        entropy = torch.zeros_like(ce) if with_entropy else None
        with torch.autocast(hidden.device.type, enabled=False):
            projection = _Projection(weight, bias, form)
            for rows in projection.chunks(valid):
                log_probabilities = projection.log_probabilities(hidden[rows])
                ce[rows] = -_picked(log_probabilities, labels[rows])
                if entropy is not None:
                    probabilities = log_probabilities.exp_()
                    entropy[rows] = torch.special.entr(probabilities, out=probabilities).sum(1)
        ctx.save_for_backward(hidden, weight, bias, labels, valid)
        ctx.form = form
        if entropy is not None:
            ctx.mark_non_differentiable(entropy)
        return ce, entropy

    @staticmethod
    def backward(ctx: Any, grad_ce: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the targets whose own gradient is not zero."""
        _refuse_second_derivatives()
        hidden, weight, bias, labels, valid = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):
            projection = _Projection(weight, bias, ctx.form)
            inputs = (hidden, weight, bias)
            gradients = _Gradients(inputs, ctx.form.wide, ctx.needs_input_grad[:3])
            for rows in projection.chunks(valid & grad_ce.ne(0)):
                gradients.add(projection, rows, hidden[rows], labels[rows], grad_ce[rows])
        return *gradients.result(), None, None, None, None


class ChunkedWeightedCrossEntropy(torch.autograd.Function):
    """Weighted sum and every target's part; forms gradients in the forward, from the same logits.

    With `weigh_rest`, `target_weights` are those of the first targets, and `weigh_rest(ce)` of these
    gives those of the others, which are not computed where that is 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        valid: Tensor,
        target_weights: Tensor,
        weigh_rest: Callable[[Tensor], Tensor] | None,
        form: LogitForm,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return both; keep the gradients of the sum."""
        num_first, num = len(target_weights), len(labels)
        ce = hidden.new_zeros(num, dtype=form.wide)
        projection = _Projection(weight, bias, form)
        gradients = None
        if learns:
            inputs = (hidden, weight, bias)
            gradients = _Gradients(inputs, form.wide, ctx.needs_input_grad[:3])

        def take(chosen: Tensor, weights: Tensor) -> None:
            kept = chosen & weights.ne(0) & learns
            with torch.autocast(hidden.device.type, enabled=False):
                for rows in projection.chunks(kept):
                    assert gradients is not None
                    parts = rows, hidden[rows], labels[rows], weights[rows]
                    ce[rows] = gradients.add(projection, *parts)
                for rows in projection.chunks(chosen & ~kept):
                    ce[rows] = projection.cross_entropy(hidden[rows], labels[rows])

        if weigh_rest is None:
            take(valid, target_weights)
        else:
            is_first = torch.arange(num, device=labels.device) < num_first
            target_weights = torch.nn.functional.pad(target_weights, (0, num - num_first))
            take(valid & is_first, target_weights)
            with torch.set_grad_enabled(learns):  # what is asked may have losses of its own
                rest = weigh_rest(ce[:num_first].clone())
            target_weights[num_first:] = rest.detach()
            take(valid & ~is_first & target_weights.ne(0), target_weights)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(ce)
        return (target_weights * ce).sum(), ce

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients that were kept."""
        _refuse_second_derivatives()
        if ctx.gradients is None:
            raise RuntimeError("a second backward through weighted_linear_cross_entropy")
        gradients, ctx.gradients = ctx.gradients, None
        return *gradients.result(factor=grad_total), *[None] * 6
