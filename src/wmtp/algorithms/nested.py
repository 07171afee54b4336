"""Schemes inside schemes: what controls and combinations of schemes share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, TypeVar

from jaxtyping import Float
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from wmtp.algorithms.base import Algorithm, Batch, ValueHeadSettings, Weighting
from wmtp.config.problems import explain
from wmtp.config.section import OpenSection, Section
from wmtp.errors import ConfigError
from wmtp.registry import ALGORITHMS


class Nested(OpenSection):
    """A scheme inside another; its own settings stand beside `name`."""

    name: str = Field(description="Registered name of the scheme.")

    @model_validator(mode="after")
    def _settings_fit(self) -> Nested:
        try:
            config = ALGORITHMS.get(self.name).Config
        except ConfigError as error:
            raise ValueError(str(error)) from None
        try:
            config.model_validate(self.options)
        except ValidationError as caught:
            found = [
                f"{'.'.join([self.name, *map(str, error['loc'])])}: {explain(error, config)}"
                for error in caught.errors(include_url=False)
            ]
            raise ValueError(" ".join(found)) from None
        return self

    def scheme(self, seed: int) -> Algorithm[Any]:
        """Return the scheme, built."""
        found = ALGORITHMS.get(self.name)
        built: Algorithm[Any] = found(found.Config.model_validate(self.options), seed)
        return built


class ControlConfig(Section):
    """Settings of a control."""

    of: Nested = Field(description="The scheme that is controlled, with its settings.")


ControlT = TypeVar("ControlT", bound=ControlConfig)


class Control(Algorithm[ControlT]):
    """Another scheme's weights on other targets; all else is that scheme's. Subclasses write `move`.

    A control moves weights within a sequence and head, so it keeps their mean and leaves uniform weights
    uniform.
    """

    def __init__(self, config: ControlT, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.scheme = config.of.scheme(seed)
        if isinstance(self.scheme, Control):
            self.take(self.scheme)
        self.needs = self.needs | self.scheme.needs
        self.uses_ce = self.scheme.uses_ce
        self.state = self.scheme.state

    def take(self, inner: Control[Any]) -> None:
        """Refuse a control of a control: weights that were moved and are moved again mean nothing new."""
        raise ConfigError(
            f"algorithm.of.name: {self.config.of.name} moves weights that would be moved again here, "
            f"which is no other control. Name {inner.config.of.name} in algorithm.of itself."
        )

    @property
    def value_head(self) -> ValueHeadSettings | None:
        """That of the scheme."""
        return self.scheme.value_head

    @property
    def values_from(self) -> str | None:
        """That of the scheme."""
        return self.scheme.values_from

    def value_phase_steps(self, total_steps: int) -> int | None:
        """Those of the scheme."""
        return self.scheme.value_phase_steps(total_steps)

    @property
    def reference(self) -> str | None:
        """That of the scheme."""
        return self.scheme.reference

    def asks_for_importance(self, step: int) -> bool:
        """As the scheme does."""
        return self.scheme.asks_for_importance(step)

    def weigh(self, batch: Batch) -> Weighting:
        """Return what the scheme answers, with its weights moved."""
        inner = self.scheme.weigh(batch)
        return replace(inner, weights=self.move(inner.weights, batch))

    def signals(self, batch: Batch) -> dict[str, Tensor]:
        """Return those of the scheme."""
        return self.scheme.signals(batch)

    @abstractmethod
    def move(self, weights: Float[Tensor, "B S H"], batch: Batch) -> Float[Tensor, "B S H"]:
        """Return the scheme's weights on other valid targets of the same sequence and head."""

    def row_seeds(self, batch: Batch) -> list[int]:
        """Return a seed for each row, from seed, step and sample: the micro-batch does not matter."""
        return [_mix(self.seed, batch.step, sample) for sample in batch.sample_ids]

    def end_step(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Leave running statistics to the scheme."""
        return self.scheme.end_step(sums)

    def restore(self, saved: dict[str, Any]) -> None:
        """Leave the state to the scheme."""
        self.scheme.restore(saved)


def _mix(*numbers: int) -> int:
    """Return one 63-bit seed that depends on all numbers and their order (splitmix64 steps)."""
    mixed = 0
    for number in numbers:
        mixed = (mixed + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed >> 1
