"""Parallel heads one at a time: the memory of activations and losses is that of one head, whatever H.

As in Gloeckle et al. 2024 (arXiv:2404.19737, section 2): once the trunk has run, each head in turn is run,
its loss taken and its gradients formed, before the next begins. What is added up is the gradient at the
trunk's output, which then goes through the trunk once. This needs the weights before the losses. Nothing is
computed twice; between forward and backward the gradients of the heads' parameters are held.

Legend: B batch, S sequence, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from wmtp.losses import IGNORE_INDEX
from wmtp.modeling.head_losses import HeadLosses
from wmtp.modeling.layout import final_hidden, run_head, tail
from wmtp.modeling.passes import Pass

Layers = Sequence[nn.Module]


def can_take_turns(backbone: PreTrainedModel, heads: Sequence[Layers]) -> bool:
    """Return whether the parameters of the heads are whole and here.

    Those of a sharded model are gathered and freed around the one backward of a step.
    """
    parts = [
        *tail(backbone),
        backbone.get_output_embeddings(),
        *(x for head in heads for x in head),
    ]
    parameters = nn.ModuleList(parts).parameters()
    return all(type(p) is nn.Parameter and p.numel() > 0 for p in parameters)


def weighted_in_turn(
    run: Pass,
    heads: Sequence[Layers],
    backbone: PreTrainedModel,
    losses: HeadLosses,
    labels: Tensor,
    weigh: Callable[[Tensor | None], Tensor],
    head_0_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return what `HeadLosses.weighted` does, or `after_head_0` where `head_0_weights` are given.

    `run` is a detached pass, `heads` are the layers of every head.
    """
    weights = weigh(None) if head_0_weights is None else None
    start = run.calls[0].hidden
    shared = _parameters([*tail(backbone), backbone.get_output_embeddings()])
    gradients = _Gradients([start, *shared])
    total, ce = torch.zeros((), device=labels.device), []
    for k, head in enumerate(heads):
        if weights is None:
            assert head_0_weights is not None
            own, of_head = labels[..., :1], head_0_weights[..., None]
        else:
            own, of_head = labels[..., k : k + 1], weights[..., k : k + 1]
            if head_0_weights is not None:
                own = own.masked_fill(of_head == 0, IGNORE_INDEX)
        hidden = run.first if k == 0 else final_hidden(backbone, run_head(head, run.calls, start))
        part, ce_k = losses.weighted([hidden], own, of_head)
        gradients.add(part, _parameters(head))
        del hidden
        total = total + part.detach()
        ce.append(ce_k)
        if weights is None:
            weights = weigh(ce_k[..., 0])
    return gradients.attached(total, run.trunk), torch.cat(ce, dim=2)


class _Gradients:
    """Gradients of a sum, formed part by part.

    common: the tensors that every part reads, the trunk's output first; theirs are added up, in float32
    at least.
    """

    def __init__(self, common: list[Tensor]) -> None:
        self.common = [x for x in common if x.requires_grad]
        self.sums = [
            torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
            for x in self.common
        ]
        self.own: list[Tensor] = []
        self.of_own: list[Tensor | None] = []

    def add(self, part: Tensor, own: list[Tensor]) -> None:
        """Take the gradients of one part, to what all parts read and to what it alone does."""
        inputs = [*self.common, *own]
        if not inputs:
            return
        # A backward is never under autocast.
        with torch.autocast(part.device.type, enabled=False):
            found = torch.autograd.grad(part, inputs, allow_unused=True)
        for total, gradient in zip(self.sums, found, strict=False):
            if gradient is not None:
                total += gradient
        self.own += own
        self.of_own += found[len(self.common) :]

    def attached(self, total: Tensor, trunk: Tensor) -> Tensor:
        """Return `total`, the sum of the parts, with these gradients; `trunk` is whose copy they read."""
        inputs = [trunk, *self.common[1:]] if trunk.requires_grad else self.common
        formed = [gradient.to(x.dtype) for gradient, x in zip(self.sums, self.common, strict=True)]
        attached: Tensor = _Attached.apply(total, [*formed, *self.of_own], *inputs, *self.own)
        return attached


class _Attached(torch.autograd.Function):
    """A sum whose gradients are there before its backward."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: list[Tensor | None], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return total.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or ctx.gradients is None:
            raise RuntimeError("heads that take turns have one backward, without create_graph")
        gradients, ctx.gradients = ctx.gradients, None
        gradients.reverse()
        found: list[Tensor | None] = []
        while gradients:  # each is freed when its product is there
            gradient = gradients.pop()
            found.append(None if gradient is None else gradient * factor.to(gradient.dtype))
        return None, None, *found


def _parameters(parts: Iterable[nn.Module]) -> list[Tensor]:
    """Return the parameters that learn, each once."""
    return [p for p in nn.ModuleList(parts).parameters() if p.requires_grad]
