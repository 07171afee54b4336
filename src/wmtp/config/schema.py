"""JSON Schema of recipes and environments, for editors and documentation."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from wmtp.config.environment import Environment
from wmtp.config.recipe import Recipe
from wmtp.errors import ConfigError, near_match
from wmtp.registry import ALGORITHMS, BENCHMARKS, SOURCES

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Section of a recipe, its model, the key that names a thing, and where those names are registered.
_OPEN_SECTIONS = (
    ("AlgorithmSection", "name", ALGORITHMS),
    ("DataSection", "source", SOURCES),
    ("EvaluationSetSection", "source", SOURCES),
    ("MixturePart", "source", SOURCES),
    ("EvaluationSection", "benchmark", BENCHMARKS),
)


def schema(name: str = "recipe") -> dict[str, Any]:
    """Return the JSON Schema of `recipe`, `environment`, or of the options of a registered name.

    A registered name gives one schema for each kind it stands for: `{"data source": {...}}`.
    The schema of a recipe holds the options of all algorithms, sources and benchmarks, which are
    imported for it. An unknown name is a `ConfigError`.
    """
    if name == "recipe":
        return _recipe_schema()
    if name == "environment":
        return {"$schema": _DIALECT, **Environment.model_json_schema()}
    registries = [registry for *_, registry in _OPEN_SECTIONS]
    found = {
        registry.kind: registry.get(name).Config.model_json_schema()
        for registry in registries
        if name in registry.names()
    }
    if not found:
        known = ["recipe", "environment", *(n for registry in registries for n in registry.names())]
        raise ConfigError(
            f"schema: unknown name {name!r}.{near_match(name, known)} See `wmtp list`."
        )
    return found


def _recipe_schema() -> dict[str, Any]:
    options: dict[str, dict[str, type[BaseModel]]] = {
        section: {name: registry.get(name).Config for name in registry.names()}
        for section, _, registry in _OPEN_SECTIONS
    }
    models: list[type[BaseModel]] = [Recipe]
    for by_name in options.values():
        models.extend(model for model in by_name.values() if model not in models)
    references, whole = models_json_schema([(model, "validation") for model in models])
    definitions = whole["$defs"]
    for section, key, _ in _OPEN_SECTIONS:
        definitions[section]["allOf"] = [
            {
                "if": {"properties": {key: {"const": name}}, "required": [key]},
                "then": _inlined(definitions, references[model, "validation"]),
            }
            for name, model in options[section].items()
        ]
        definitions[section]["properties"][key]["examples"] = list(options[section])
        del definitions[section]["additionalProperties"]
        definitions[section]["unevaluatedProperties"] = False
    return {"$schema": _DIALECT, **references[Recipe, "validation"], **whole}


def _inlined(definitions: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """Return what a reference stands for, open, because the section closes itself as a whole."""
    target = definitions[reference["$ref"].removeprefix("#/$defs/")]
    return {key: value for key, value in target.items() if key in {"properties", "required"}}
