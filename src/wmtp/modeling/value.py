"""The value head: P(success) of a partial completion."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

ValueHeadKind = Literal["linear", "mlp"]


class ValueHead(nn.Module):
    """V(s_t) in (0, 1) from the trunk's hidden state after reading tokens up to t.

    kind: `linear` or `mlp` (one hidden layer of the same width). train_trunk: whether the value loss
    sends gradients into the trunk. The trunk's residual stream is not normalised, so the head brings
    its own layer norm.
    """

    num_folds = 1

    def __init__(self, hidden_size: int, kind: ValueHeadKind, train_trunk: bool) -> None:
        super().__init__()
        self.kind = kind
        self.train_trunk = train_trunk
        self.norm = nn.LayerNorm(hidden_size)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.SiLU())
        if kind == "linear":
            self.mlp = nn.Sequential()
        self.out = nn.Linear(hidden_size, 1)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Float[Tensor, "B S D"]) -> Float[Tensor, "B S"]:
        """Return the value of every state, in float32."""
        if not self.train_trunk:
            hidden = hidden.detach()
        hidden = hidden.to(self.norm.weight.dtype)
        return self.out(self.mlp(self.norm(hidden))).squeeze(-1).float().sigmoid()


class CrossFittedValueHead(nn.Module):
    """K value heads on one trunk that share nothing else, so that each can be fitted on other problems.

    The trunk gets no gradient from them: through it, one head would learn what another was fitted on.
    """

    train_trunk = False

    def __init__(self, hidden_size: int, kind: ValueHeadKind, num_folds: int) -> None:
        super().__init__()
        self.kind = kind
        self.num_folds = num_folds
        self.folds = nn.ModuleList(ValueHead(hidden_size, kind, False) for _ in range(num_folds))

    def forward(self, hidden: Float[Tensor, "B S D"]) -> Float[Tensor, "B S K"]:
        """Return the values of every state by each head, in float32."""
        return torch.stack([head(hidden) for head in self.folds], dim=-1)


def new_value_head(
    hidden_size: int, kind: ValueHeadKind, train_trunk: bool, num_folds: int = 1
) -> ValueHead | CrossFittedValueHead:
    """Return a fresh value head; more than one fold with a trained trunk is a `ValueError`."""
    if num_folds == 1:
        return ValueHead(hidden_size, kind, train_trunk)
    if train_trunk:
        raise ValueError(
            "value heads fitted on different folds need a trunk that none of them trains"
        )
    return CrossFittedValueHead(hidden_size, kind, num_folds)
