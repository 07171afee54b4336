"""The value head: P(success) of a partial completion."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn


class ValueHead(nn.Module):
    """V(s_t) in (0, 1) from the trunk's hidden state after reading tokens up to t.

    kind: `linear` or `mlp` (one hidden layer of the same width). train_trunk: whether the value loss
    sends gradients into the trunk. The trunk's residual stream is not normalised, so the head brings
    its own layer norm.
    """

    def __init__(self, hidden_size: int, kind: Literal["linear", "mlp"], train_trunk: bool) -> None:
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
