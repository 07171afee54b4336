"""gradient-importance: a token weighs as much as the loss depends on it.

The measure of TI-DPO (Yang et al. 2025, arXiv:2505.19653, section 3): the L1 norm of the gradient with
respect to the token's input embedding. Departures: the target is the language-modelling loss of all
heads, not a preference; there is no Gaussian prior over positions; powers and clips as for the critic;
and the gradient is taken in every n-th step alone.

What is used in between. A sample comes once per epoch, so its own importance of an earlier step is not
to be had, and uniform weights would make the scheme the baseline in n - 1 of n steps. Those steps use
the running mean of the importance of each token type, in units of the mean of its sequence: the best
guess from the token alone. A type that was never measured counts as average.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from wmtp.algorithms.base import Algorithm, Batch, Weighting
from wmtp.config.section import Section
from wmtp.weighting import align_to_heads, nan_where_not_finite, normalise_per_sequence


def relative_importance(
    importance: Float[Tensor, "B S"], completion: Bool[Tensor, "B S"]
) -> Float[Tensor, "B S"]:
    """Return the importance of each completion token over the mean of its sequence, 0 elsewhere.

    1 throughout where nothing depends on any of them, such as in a completion of one token.
    """
    inside = importance.masked_fill(~completion, 0.0)
    count = completion.sum(dim=1, keepdim=True)
    total = inside.sum(dim=1, keepdim=True)
    relative = torch.where(total == 0, 1.0, inside * count / total.clamp(min=1e-30))
    return relative.masked_fill(~completion, 0.0)


def importance_weights(
    relative: Float[Tensor, "B S"],
    valid: Bool[Tensor, "B S H"],
    power: float = 1.0,
    clip: tuple[float, float] = (0.1, 5.0),
) -> Float[Tensor, "B S H"]:
    """Return `clip(r[t + k + 1]^power)` with mean 1 over each sequence and head; r is stored by token."""
    by_head = align_to_heads(relative.detach().float().pow(power).clamp(*clip), valid.shape[2])
    weights = normalise_per_sequence(by_head, valid)
    return nan_where_not_finite(weights, by_head, valid)


class GradientImportance(Algorithm["GradientImportance.Config"]):
    """Weights from the gradient of the loss with respect to each token's embedding."""

    class Config(Section):
        """Settings of gradient importance."""

        every_n_steps: int = Field(
            8, ge=1, description="Steps from one measurement, another backward, to the next."
        )
        power: float = Field(1.0, ge=0, description="Power of the importance; 0 is uniform.")
        clip_min: float = Field(0.1, ge=0, description="Smallest weight before normalisation.")
        clip_max: float = Field(5.0, gt=0, description="Largest weight before normalisation.")
        running_decay: float = Field(
            0.9, ge=0, lt=1, description="Decay of a type's running mean per measurement."
        )

        @model_validator(mode="after")
        def _clips_in_order(self) -> GradientImportance.Config:
            if self.clip_min >= self.clip_max:
                raise ValueError(f"clip_min {self.clip_min} must be below clip_max {self.clip_max}")
            return self

    uses_ce = "none"

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.state |= {"total": [], "count": []}

    def asks_for_importance(self, step: int) -> bool:
        """Return whether this step measures."""
        return step % self.config.every_n_steps == 0

    def weigh(self, batch: Batch) -> Weighting:
        """Return weights from the measured importance, or from that of the token types."""
        assert batch.token_ids is not None
        sums = {}
        if batch.importance is not None:
            relative = relative_importance(batch.importance, batch.completion)
            sums = _sums_by_type(relative, batch)
        else:
            relative = self._of_types(batch.token_ids)
        clip = (self.config.clip_min, self.config.clip_max)
        return Weighting(
            importance_weights(relative, batch.valid, self.config.power, clip), sums=sums
        )

    def end_step(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Update the running means of the token types."""
        seen = sums["count"] > 0
        for name, new in sums.items():
            old = torch.tensor(self.state[name] or 0.0, dtype=torch.float64)
            kept = torch.where(seen.cpu(), self.config.running_decay, 1.0)
            self.state[name] = (kept * old + new.double().cpu()).tolist()
        return {"importance/types_measured": float(seen.sum())}

    def _of_types(self, token_ids: Tensor) -> Tensor:
        """Return the running mean of each token's type, 1 where there is none."""
        if not self.state["count"]:
            return torch.ones(token_ids.shape, device=token_ids.device)
        count = torch.tensor(self.state["count"])
        mean = torch.tensor(self.state["total"]) / count.clamp(min=1e-12)
        return torch.where(count > 0, mean, 1.0).to(token_ids.device)[token_ids]


def _sums_by_type(relative: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Return the sum of the relative importance of each token type, and how often it is there."""
    assert batch.token_ids is not None
    ids = batch.token_ids[batch.completion]
    found = relative[batch.completion].double()
    zeros = found.new_zeros(batch.vocab_size)
    return {
        "total": zeros.index_add(0, ids, found),
        "count": zeros.index_add(0, ids, torch.ones_like(found)),
    }
