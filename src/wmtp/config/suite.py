"""A suite: one recipe, varied by arm and seed under one budget."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pydantic import Field, model_validator

from wmtp.config.load import Document
from wmtp.config.section import Section

_BUDGET = {"steps", "epochs", "tokens", "global_batch"}


class Suite(Section):
    """What is compared: the whole of a suite file."""

    name: str = Field(description="Names the folder of the suite's runs.")
    title: str = Field(description="Heads the report.")
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, strict=False, description="Every arm runs once per seed."
    )
    recipe: dict[str, Any] = Field(description="The recipe that all arms share.")
    reference: dict[str, Any] = Field(
        description="What the reference model's recipe has instead; it also trains the tokenizer."
    )
    arms: dict[str, dict[str, Any]] = Field(
        min_length=1, description="Name of each arm, and what its recipe has instead."
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Suite:
        for name, change in self.arms.items():
            own = change.get("optimization")
            if found := sorted(_BUDGET & set(own if isinstance(own, dict) else ())):
                raise ValueError(
                    f"arm {name} has its own optimization.{found[0]}, but arms are compared under one "
                    "budget: set it in recipe"
                )
        return self


def variant(suite: Suite, label: str, *changes: dict[str, Any]) -> Document:
    """Return the shared recipe with `changes` merged in, later ones over earlier ones.

    Groups of settings are merged key by key, but `algorithm` is replaced whole: its settings
    belong to its name.
    """
    data = deepcopy(suite.recipe)
    for change in changes:
        data = _merged(data, deepcopy(change))
    return Document(label, data)


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both and key != "algorithm" else value
    return merged
