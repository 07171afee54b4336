"""rho1-wmtp: train on the targets whose loss exceeds that of a reference most.

Selective language modelling of Lin et al. 2024 (arXiv:2404.07965, section 2.2). Departures: selection
is within each sequence and head, not within a micro-batch, which would depend on how a batch is cut;
`always_keep_head_0` leaves the next-token head uniform (false is the paper); the modes other than
`topk`, `min_ce_diff`, `keep_warmup` and `select_by: token` are ours.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from wmtp.algorithms.base import Algorithm, Batch, Weighting
from wmtp.config.section import Section
from wmtp.weighting import (
    align_to_heads,
    nan_where_not_finite,
    normalise_per_sequence,
    softmax_over_heads,
    top_fraction,
)

SoftMode = Literal["softmax", "abs_softmax", "emphasis"]


def excess_loss(ce: Float[Tensor, "B S K"], ref_ce: Float[Tensor, "B S"]) -> Float[Tensor, "B S K"]:
    """Return `ce[b, t, k] - ref_ce[b, t + k + 1]` (nats, signed); `ref_ce` is stored by token."""
    return ce.detach() - align_to_heads(ref_ce, ce.shape[2])


def rho1_weights(
    ce: Float[Tensor, "B S K"],
    ref_ce: Float[Tensor, "B S"],
    valid: Bool[Tensor, "B S H"],
    keep: float = 0.6,
    always_keep_head_0: bool = False,
    min_ce_diff: float | None = None,
    select_by: Literal["head", "token"] = "head",
) -> Float[Tensor, "B S H"]:
    """Return the weights of selective language modelling, per head.

    ::

        excess[b, t, k] = ce[b, t, k] - ref_ce[b, t + k + 1]         (nats, signed)
        w = 1 / (share kept) for the largest `keep` share of excess, else 0

    `ce` is the policy's, `ref_ce` the reference's, stored by token. Selection is within each sequence
    and head, for a further head sees less context than the reference and is compared only with itself.
    Kept weights are equal and average 1 over the valid targets, which is the paper's division by the
    number kept (arXiv:2404.07965, equations 3 to 5). `always_keep_head_0` leaves head 0 uniform;
    `min_ce_diff` never keeps a target whose excess is below it (a sequence and head may lose all).
    With `select_by: token` the excess of head 0, all that is then looked at, chooses tokens, and every
    head keeps its targets among these.
    """
    by_token = select_by == "token"
    excess = excess_loss(ce[..., :1] if by_token else ce, ref_ce)
    eligible = valid[..., :1] if by_token else valid
    chosen = top_fraction(excess, eligible, keep)
    if min_ce_diff is not None:
        chosen &= excess >= min_ce_diff
    if by_token:
        tokens = torch.nn.functional.pad(chosen[:, :-1, 0], (1, 0))
        chosen = align_to_heads(tokens, valid.shape[2]) & valid
    if always_keep_head_0:
        chosen[:, :, 0] = valid[:, :, 0]
    weights = normalise_per_sequence(chosen.float(), valid)
    return nan_where_not_finite(weights, excess, eligible)


def rho1_soft_weights(
    ce: Float[Tensor, "B S H"],
    ref_ce: Float[Tensor, "B S"],
    valid: Bool[Tensor, "B S H"],
    mode: SoftMode = "softmax",
    temperature: float = 0.7,
    emphasis_share: float = 0.15,
    always_keep_head_0: bool = False,
) -> Float[Tensor, "B S H"]:
    """Return weights that spread each position's attention over its heads.

    ::

        w[b, t, :] = n softmax_k(excess[b, t, k] / temperature)      over the n valid heads of position t

    then divided by its mean over the valid targets of each sequence and head: far heads see less context
    and have the larger excess throughout, so without that the mean of a head would not be 1. What is left
    is where a head's share is larger than it usually is. `abs_softmax` takes `|excess|`; `emphasis`
    first raises the largest `emphasis_share` of excess in each sequence and head by its own size (twice
    what it was where it is positive).
    """
    excess = excess_loss(ce, ref_ce)
    if mode == "abs_softmax":
        excess = excess.abs()
    if mode == "emphasis":
        raised = top_fraction(excess, valid, emphasis_share)
        excess = torch.where(raised, excess + excess.abs(), excess)
    weights = normalise_per_sequence(softmax_over_heads(excess / temperature, valid), valid)
    if always_keep_head_0:
        weights[:, :, 0] = valid[:, :, 0].float()
    return nan_where_not_finite(weights, excess, valid)


# Which settings belong to which modes.
_MODES = {
    "keep": ("topk",),
    "keep_warmup": ("topk",),
    "min_ce_diff": ("topk",),
    "select_by": ("topk",),
    "temperature": ("softmax", "abs_softmax", "emphasis"),
    "emphasis_share": ("emphasis",),
}


class Rho1(Algorithm["Rho1.Config"]):
    """Keep the targets with the largest loss excess over a reference trained on clean data."""

    class Config(Section):
        """Settings of selective language modelling."""

        reference: str = Field(
            description="Checkpoint with the same tokenizer, trained on clean data, or an earlier one "
            "of the policy itself."
        )
        mode: Literal["topk", "softmax", "abs_softmax", "emphasis"] = Field(
            "topk", description="topk keeps or drops targets, the others spread weights over heads."
        )
        keep: float = Field(0.6, gt=0, le=1, description="Share of valid targets kept per head.")
        keep_warmup: float = Field(
            0.0,
            ge=0,
            le=1,
            description="Share of the steps in which the share kept falls linearly from 1 to `keep`.",
        )
        always_keep_head_0: bool = Field(
            True, description="Leave the next-token head uniform; false is the paper."
        )
        min_ce_diff: float | None = Field(
            None, description="Targets whose excess (nats) is below this are never kept."
        )
        select_by: Literal["head", "token"] = Field(
            "head",
            description="token: head 0's excess chooses the tokens for all heads, which saves the loss "
            "of the dropped ones.",
        )
        temperature: float = Field(0.7, gt=0, description="Temperature of the softmax over heads.")
        emphasis_share: float = Field(
            0.15, gt=0, le=1, description="Share of targets whose excess is raised, mode emphasis."
        )

        @model_validator(mode="after")
        def _settings_belong_to_the_mode(self) -> Rho1.Config:
            for name in sorted(self.model_fields_set & _MODES.keys()):
                if self.mode not in _MODES[name]:
                    raise ValueError(
                        f"{name} is for mode {' and '.join(_MODES[name])}, the mode is {self.mode}. "
                        "Leave the one out or change the other."
                    )
            return self

    needs = frozenset({"ref_ce"})

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__(config, seed)
        if config.mode == "topk" and config.keep == 1 and config.min_ce_diff is None:
            self.uses_ce = "none"  # nothing is ever dropped
        elif config.select_by == "token" and config.always_keep_head_0:
            self.uses_ce = "head_0"

    @property
    def reference(self) -> str:
        """The reference checkpoint of the recipe."""
        return self.config.reference

    def weigh(self, batch: Batch) -> Weighting:
        """Return the weights of the mode."""
        config = self.config
        if self.uses_ce == "none":
            return Weighting(batch.valid.float())
        assert batch.ce is not None
        assert batch.ref_ce is not None
        if config.mode != "topk":
            weights = rho1_soft_weights(
                batch.ce,
                batch.ref_ce,
                batch.valid,
                config.mode,
                config.temperature,
                config.emphasis_share,
                config.always_keep_head_0,
            )
        else:
            weights = rho1_weights(
                batch.ce,
                batch.ref_ce,
                batch.valid,
                self._share(batch),
                config.always_keep_head_0,
                config.min_ce_diff,
                config.select_by,
            )
        return Weighting(weights)

    def signals(self, batch: Batch) -> dict[str, Tensor]:
        """Return the excess loss of every target."""
        assert batch.ce is not None
        assert batch.ref_ce is not None
        return {"excess": excess_loss(batch.ce, batch.ref_ce)}

    def _share(self, batch: Batch) -> float:
        """Return the share that is kept in this step."""
        steps = self.config.keep_warmup * batch.total_steps
        progress = min(1.0, batch.step / steps) if steps else 1.0
        return 1.0 - (1.0 - self.config.keep) * progress
