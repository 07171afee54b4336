"""Checking one settings file, whichever kind it is."""

from __future__ import annotations

from pathlib import Path

from wmtp.config.environment import Environment
from wmtp.config.load import Document, load_document
from wmtp.config.options import resolve_options
from wmtp.config.recipe import Recipe
from wmtp.config.suite import Suite, variant
from wmtp.errors import ConfigError


def check_file(path: Path) -> str:
    """Return what the file is, such as `recipe NAME`; its mistakes are a `ConfigError`.

    A file with a key that only suites or only recipes have is one of these, else an environment.
    """
    document = load_document(path)
    if document.data.keys() & {"arms", "recipe", "reference"}:
        suite = checked_suite(document)
        return f"suite {suite.name} of {len(suite.arms)} arms"
    if document.data.keys() & (Recipe.model_fields.keys() - Environment.model_fields.keys()):
        return f"recipe {_check_recipe(document).name}"
    return f"environment {document.validate(Environment).name}"


def _check_recipe(document: Document) -> Recipe:
    recipe = document.validate(Recipe)
    resolve_options(recipe, document)
    return recipe


def checked_suite(document: Document) -> Suite:
    """Return the suite in `document`; mistakes in any of its recipes are a `ConfigError`."""
    suite = document.validate(Suite)
    label = document.label
    reference = variant(suite, f"{label}, reference:", {"name": "reference"}, suite.reference)
    trained = {"tokenizer": {"pretrained": "of-the-reference"}}
    arms = [
        variant(suite, f"{label}, arm {name}:", trained, changes, {"name": name})
        for name, changes in suite.arms.items()
    ]
    problems = []
    for recipe in (reference, *arms):
        try:
            _check_recipe(recipe)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return suite
