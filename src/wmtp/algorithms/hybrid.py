"""hybrid: two schemes at once, such as the critic and Rho-1."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from wmtp.algorithms.base import (
    Algorithm,
    Batch,
    RunningMoments,
    ValueHeadSettings,
    Weighting,
)
from wmtp.algorithms.nested import Nested
from wmtp.config.section import Section
from wmtp.errors import ConfigError
from wmtp.weighting import normalise_per_sequence


def product_weights(
    first: Float[Tensor, "B S H"],
    second: Float[Tensor, "B S H"],
    valid: Bool[Tensor, "B S H"],
    mean: Float[Tensor, " H"] | None = None,
) -> Float[Tensor, "B S H"]:
    """Return `first * second / mean`, by head; without a mean, with mean 1 per sequence and head."""
    product = first * second
    if mean is None:
        return normalise_per_sequence(product, valid)
    return product / mean.clamp(min=1e-6)


class Hybrid(Algorithm["Hybrid.Config"]):
    """Two schemes' weights in one: their product, or a mixture of both.

    The product is divided by its running mean per head, so that whole sequences can still weigh more
    or less than others, as the critic wants it. A mixture of weights with mean 1 has mean 1 already.
    """

    class Config(Section):
        """The two schemes, and how they are put together."""

        first: Nested = Field(description="A scheme, with its settings.")
        second: Nested = Field(description="Another scheme, with its settings.")
        combine: Literal["product", "interpolation"] = Field(
            "product",
            description="product: a target needs both; interpolation: a weighted mean of both.",
        )
        share: float = Field(
            0.5, ge=0, le=1, description="Share of the first scheme in an interpolation."
        )
        running_decay: float = Field(
            0.95, gt=0, lt=1, description="Decay per step of a product's running mean."
        )

        @model_validator(mode="after")
        def _settings_belong_to_the_combination(self) -> Hybrid.Config:
            unused = "share" if self.combine == "product" else "running_decay"
            if unused in self.model_fields_set:
                raise ValueError(f"{unused} has no meaning when combine is {self.combine}")
            return self

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.schemes = {
            "first": config.first.scheme(seed),
            "second": config.second.scheme(seed),
        }
        first, second = self.schemes.values()
        self.needs = first.needs | second.needs
        # Head 0 need not be uniform here, so its losses alone do not do.
        self.uses_ce = "none" if {first.uses_ce, second.uses_ce} == {"none"} else "all"
        if None not in (first.value_phase_steps(1), second.value_phase_steps(1)):
            raise ConfigError(
                "algorithm.second: both schemes need values, and a model has one value head. Choose a "
                "scheme without a critic."
            )
        if None not in (first.reference, second.reference) and first.reference != second.reference:
            raise ConfigError(
                f"algorithm.second: the schemes have the references {first.reference} and "
                f"{second.reference}, and the data keep the losses of one. Name the same one twice."
            )
        self.state |= {name: scheme.state for name, scheme in self.schemes.items()}
        self.moments = RunningMoments(self.state.setdefault("product", {}), config.running_decay)

    @property
    def value_head(self) -> ValueHeadSettings | None:
        """That of the scheme which has one."""
        return next((s.value_head for s in self.schemes.values() if s.value_head), None)

    @property
    def values_from(self) -> str | None:
        """That of the scheme which has one."""
        return next((s.values_from for s in self.schemes.values() if s.values_from), None)

    def value_phase_steps(self, total_steps: int) -> int | None:
        """Those of the scheme with values."""
        found = (scheme.value_phase_steps(total_steps) for scheme in self.schemes.values())
        return next((steps for steps in found if steps is not None), None)

    @property
    def reference(self) -> str | None:
        """That of the scheme which has one."""
        return next((s.reference for s in self.schemes.values() if s.reference), None)

    def asks_for_importance(self, step: int) -> bool:
        """Return whether one of the schemes does."""
        return any(scheme.asks_for_importance(step) for scheme in self.schemes.values())

    def weigh(self, batch: Batch) -> Weighting:
        """Return the combined weights, both auxiliary losses and all sums."""
        answers = {name: scheme.weigh(batch) for name, scheme in self.schemes.items()}
        first, second = (answer.weights for answer in answers.values())
        sums = {
            f"{name}/{key}": value
            for name, answer in answers.items()
            for key, value in answer.sums.items()
        }
        auxiliary = [a.auxiliary for a in answers.values() if a.auxiliary is not None]
        if self.config.combine == "product":
            product = first * second
            sums["product"] = product.sum(dim=(0, 1))
            sums["product_squared"] = product.square().sum(dim=(0, 1))
            sums["targets"] = batch.valid.sum(dim=(0, 1))
            mean = self.moments.mean().to(first.device) if self.moments.known else None
            weights = product_weights(first, second, batch.valid, mean)
        else:
            weights = self.config.share * first + (1 - self.config.share) * second
        return Weighting(weights, auxiliary[0] if auxiliary else None, sums)

    def signals(self, batch: Batch) -> dict[str, Tensor]:
        """Return those of both schemes."""
        first, second = (scheme.signals(batch) for scheme in self.schemes.values())
        return first | second

    def end_step(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Hand each scheme its own sums; update the running mean of the product."""
        metrics: dict[str, float] = {}
        for name, scheme in self.schemes.items():
            own = {k.removeprefix(f"{name}/"): v for k, v in sums.items() if k.startswith(name)}
            if own:
                metrics |= scheme.end_step(own)
        if "product" in sums:
            # A step in which a scheme rests says nothing about the mean of the others.
            count = torch.where(sums["product"] > 0, sums["targets"], 0)
            self.moments.update(sums["product"], sums["product_squared"], count)
        return metrics

    def restore(self, saved: dict[str, Any]) -> None:
        """Put back the states of both schemes, and the running mean."""
        for name, scheme in self.schemes.items():
            scheme.restore(saved[name])
        super().restore({"product": saved["product"]})
