"""The settings that belong to what a recipe names: its algorithm, data source and benchmark."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel

from wmtp.config.load import Document
from wmtp.config.recipe import Recipe
from wmtp.config.section import OpenSection, Section
from wmtp.config.yaml_text import KeyPath
from wmtp.errors import ConfigError
from wmtp.registry import ALGORITHMS, BENCHMARKS, SOURCES, Registry


class NoOptions(Section):
    """The settings of a benchmark that is not named: none."""


class Options(NamedTuple):
    """Checked settings, each an instance of the `Config` of what the recipe names.

    data: one for each source, the parts of a mixture in their order.
    """

    algorithm: BaseModel
    data: tuple[BaseModel, ...]
    evaluation: BaseModel
    decontaminate: tuple[BaseModel, ...] = ()


def resolve_options(recipe: Recipe, document: Document) -> Options:
    """Return the checked settings of algorithm, source and benchmark.

    Imports what the recipe names. All mistakes together are one `ConfigError`.
    """
    problems: list[str] = []
    found: list[BaseModel] = []
    named: list[tuple[Registry, OpenSection, KeyPath]] = [
        (ALGORITHMS, recipe.algorithm, ("algorithm", "name"))
    ]
    if recipe.data.mixture is None:
        named.append((SOURCES, recipe.data, ("data", "source")))
    for i, part in enumerate(recipe.data.mixture or ()):
        named.append((SOURCES, part, ("data", "mixture", i, "source")))
    named.append((BENCHMARKS, recipe.evaluation, ("evaluation", "benchmark")))
    for registry, section, at in named:
        try:
            found.append(_options(registry, document, section, at))
        except ConfigError as error:
            problems.append(str(error))
    cleaning = recipe.data.decontaminate
    against: list[BaseModel] = []
    for number, section in enumerate(cleaning.against if cleaning else ()):
        place = ("data", "decontaminate", "against", number, "source")
        try:
            against.append(_options(SOURCES, document, section, place))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    algorithm, *data, evaluation = found
    try:  # schemes inside schemes may not go together
        ALGORITHMS.get(recipe.algorithm.name)(algorithm)
    except ConfigError as error:
        raise ConfigError(f"{document.label}: {error}") from error
    return Options(algorithm, tuple(data), evaluation, tuple(against))


def _options(
    registry: Registry, document: Document, section: OpenSection, at: KeyPath
) -> BaseModel:
    name = getattr(section, str(at[-1]))
    if name is None:
        return document.validate_options(section, NoOptions, at[:-1])
    try:
        named = registry.get(name)
    except ConfigError as error:
        raise ConfigError(f"{document.where(at)}: {error}") from error
    return document.validate_options(section, named.Config, at[:-1])
