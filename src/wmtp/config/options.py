"""The settings that belong to what a recipe names: its algorithm, data source and benchmark."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel

from wmtp.config.load import Document
from wmtp.config.recipe import OpenSection, Recipe, Section
from wmtp.config.yaml_text import KeyPath
from wmtp.errors import ConfigError
from wmtp.registry import ALGORITHMS, BENCHMARKS, SOURCES, Registry


class NoOptions(Section):
    """The settings of a benchmark that is not named: none."""


class Options(NamedTuple):
    """Checked settings, each an instance of the `Config` of what the recipe names."""

    algorithm: BaseModel
    data: BaseModel
    evaluation: BaseModel
    decontaminate: tuple[BaseModel, ...] = ()


def resolve_options(recipe: Recipe, document: Document) -> Options:
    """Return the checked settings of algorithm, source and benchmark.

    Imports what the recipe names. All mistakes together are one `ConfigError`.
    """
    problems: list[str] = []
    found: list[BaseModel] = []
    for registry, at, key in (
        (ALGORITHMS, "algorithm", "name"),
        (SOURCES, "data", "source"),
        (BENCHMARKS, "evaluation", "benchmark"),
    ):
        try:
            found.append(_options(registry, document, getattr(recipe, at), (at, key)))
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
    return Options(found[0], found[1], found[2], tuple(against))


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
