"""The value head: P(success) of a partial completion."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

ValueHeadKind = Literal["linear", "mlp", "evidence"]


class ValueHead(nn.Module):
    """V(s_t) in (0, 1) from the trunk's hidden state after reading tokens up to t.

    kind: `linear` or `mlp` (one hidden layer of the same width). train_trunk: whether the value loss
    sends gradients into the trunk. The trunk's residual stream is not normalised, so the head brings
    its own layer norm.

    `evidence` sums up what each token says::

        logit V(s_t) = prior + sum over completion tokens j <= t of e(h_j, c_j) + slope * c_j

    with h_j the trunk's state after token j, c_j = -log p_0(x_j | x_<j) its surprise under head 0 (nats,
    a constant here) and e an mlp of both. Any V of the tokens read can be written as such a sum, whose
    terms are log likelihood ratios; the form says that evidence stays, so that the loss of every later
    state reaches the token at fault, and surprise is what a fault looks like to a model of correct text:
    the more, the more, which the mlp alone would have to find for every size of surprise.
    """

    num_folds = 1

    def __init__(self, hidden_size: int, kind: ValueHeadKind, train_trunk: bool) -> None:
        super().__init__()
        self.kind = kind
        self.train_trunk = train_trunk
        self.norm = nn.LayerNorm(hidden_size)
        size = hidden_size + int(self.reads_surprise)
        self.mlp = nn.Sequential(nn.Linear(size, hidden_size), nn.SiLU())
        if kind == "linear":
            self.mlp = nn.Sequential()
        self.out = nn.Linear(hidden_size, 1)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)
        if self.reads_surprise:
            self.prior = nn.Parameter(torch.zeros(1))
            self.slope = nn.Parameter(torch.zeros(1))

    @property
    def reads_surprise(self) -> bool:
        """Whether `forward` needs the surprise of the tokens."""
        return self.kind == "evidence"

    def forward(
        self, hidden: Float[Tensor, "B S D"], surprise: Float[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B S"]:
        """Return the value of every state, in float32.

        surprise: nats by token, NaN for tokens that are not of a completion; for `evidence` alone.
        """
        if not self.train_trunk:
            hidden = hidden.detach()
        state = self.norm(hidden.to(self.norm.weight.dtype))
        if not self.reads_surprise:
            return self.out(self.mlp(state)).squeeze(-1).float().sigmoid()
        assert surprise is not None
        known = surprise.nan_to_num().to(state.dtype)[..., None]
        evidence = self.out(self.mlp(torch.cat([state, known], dim=-1))) + self.slope * known
        evidence = evidence.squeeze(-1).float()
        return (self.prior.float() + running_sum(evidence, ~surprise.isnan())).sigmoid()


def running_sum(values: Float[Tensor, "B S"], within: Bool[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Return the sum of `values` from the start of each stretch of `within` up to here, 0 outside."""
    total = torch.nn.functional.pad((values * within).cumsum(dim=1), (1, 0))
    places = torch.arange(1, values.shape[1] + 1, device=values.device)
    start = torch.where(within, 0, places).cummax(dim=1).values
    return (total[:, 1:] - total.gather(1, start)) * within


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

    @property
    def reads_surprise(self) -> bool:
        """Whether `forward` needs the surprise of the tokens."""
        return self.kind == "evidence"

    def forward(
        self, hidden: Float[Tensor, "B S D"], surprise: Float[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B S K"]:
        """Return the values of every state by each head, in float32."""
        return torch.stack([head(hidden, surprise) for head in self.folds], dim=-1)


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


def value_of(
    head: ValueHead | CrossFittedValueHead | None, trunk: Tensor, surprise: Tensor | None
) -> Tensor | None:
    """Return V of every state; None without a head, or where it cannot say anything."""
    if head is None or (head.reads_surprise and surprise is None):
        return None
    found: Tensor = head(trunk, surprise)
    return found
