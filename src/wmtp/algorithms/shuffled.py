"""shuffled: another scheme's weights, permuted, so that only their distribution is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field
from torch import Tensor

from wmtp.algorithms.base import Algorithm, Batch, ValueHeadSettings, Weighting
from wmtp.config.recipe import OpenSection, Section
from wmtp.errors import ConfigError
from wmtp.registry import ALGORITHMS
from wmtp.weighting import permute_within_rows


class Of(OpenSection):
    """The scheme whose weights are shuffled; its own settings stand beside `name`."""

    name: str = Field(description="Registered name of the scheme.")


class Shuffled(Algorithm["Shuffled.Config"]):
    """The control for every scheme: same weights per sequence and head, on the wrong targets.

    A scheme that beats the baseline but not its own shuffle gains from the distribution of its
    weights, not from where they stand.
    """

    class Config(Section):
        """Which scheme to shuffle."""

        of: Of = Field(description="The scheme, with its settings.")

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__(config, seed)
        if config.of.name == "shuffled":
            raise ConfigError(
                "algorithm.of.name: shuffling a shuffle is the same as shuffling once."
            )
        scheme = ALGORITHMS.get(config.of.name)
        self.scheme: Algorithm[Any] = scheme(scheme.Config(**config.of.options), seed)
        self.needs = self.scheme.needs
        self.uses_ce = self.scheme.uses_ce
        self.state = self.scheme.state

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

    def weigh(self, batch: Batch) -> Weighting:
        """Return the scheme's weights, permuted among the valid targets of each sequence and head.

        The permutation depends on seed, step and sample alone, not on the micro-batch.
        """
        inner = self.scheme.weigh(batch)
        seeds = [_mix(self.seed, batch.step, sample) for sample in batch.sample_ids]
        weights = permute_within_rows(inner.weights, batch.valid, seeds)
        return replace(inner, weights=weights)

    def end_step(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Leave running statistics to the scheme."""
        return self.scheme.end_step(sums)


def _mix(*numbers: int) -> int:
    """Return one 63-bit seed that depends on all numbers and their order (splitmix64 steps)."""
    mixed = 0
    for number in numbers:
        mixed = (mixed + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed >> 1
