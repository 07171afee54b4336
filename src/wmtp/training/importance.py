"""How much the loss depends on each token: one more backward, to the embeddings alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from wmtp.modeling.mtp import MTPModel


def input_importance(model: MTPModel, **inputs: Any) -> Tensor:
    """Return the L1 norm of the gradient of the summed loss to each token's embedding, `[B,S]`.

    The sum is over all targets of all heads, in nats. Parameters get no gradient, and none is computed
    for them, so this costs less than another step. `inputs` are those of the model's forward.
    """
    embedded: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        # Sequential heads embed the same tokens once more.
        if not embedded:
            embedded.append(output.detach().requires_grad_())
        return embedded[0]

    hook = model.backbone.get_input_embeddings().register_forward_hook(keep)
    try:
        with _frozen(model), torch.enable_grad():
            ce = model(**inputs).ce
            (gradient,) = torch.autograd.grad(ce.sum(), embedded)
    finally:
        hook.remove()
    return gradient.float().abs().sum(dim=2)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter want a gradient inside the block."""
    learning = [p for p in model.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
