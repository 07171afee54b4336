"""What is wrong with a value, in one sentence with the fix."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from wmtp.errors import near_match

_BOUNDS = {
    "greater_than": ("gt", "is not above"),
    "greater_than_equal": ("ge", "is below"),
    "less_than": ("lt", "is not below"),
    "less_than_equal": ("le", "is above"),
}
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a group of `key: value` lines",
    "model_type": "a group of `key: value` lines",
    "model_attributes_type": "a group of `key: value` lines",
}


def explain(error: ErrorDetails, model: type[BaseModel], also_known: tuple[str, ...] = ()) -> str:
    """Return what is wrong and how to mend it, for one error that `model` raised.

    `also_known` are names that stand beside those of `model` and take part in near matches.
    """
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    section, meaning = _section_and_meaning(model, error["loc"])
    if kind == "extra_forbidden":
        known = [*(also_known if section is model else ()), *section.model_fields]
        return f"unknown key.{near_match(str(error['loc'][-1]), known)} Known: {', '.join(known)}."
    if kind == "missing":
        return f"missing.{meaning}"
    if kind == "value_error":
        return _sentence(str(context["error"]))
    if kind in _BOUNDS:
        limit, words = _BOUNDS[kind]
        return f"{found} {words} {context[limit]}.{meaning}"
    if kind == "literal_error":
        near = near_match(str(found), re.findall(r"'([^']*)'", context["expected"]))
        return f"{_shown(found)} is not {context['expected']}.{near}{meaning}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, found {_shown(found)}.{meaning}"
    return f"{_shown(found)}: {_sentence(error['msg'])}{meaning}"


def _section_and_meaning(
    model: type[BaseModel], location: tuple[str | int, ...]
) -> tuple[type[BaseModel], str]:
    """Return the innermost model that `location` leads into, and what the field there means."""
    meaning = ""
    for name in location:
        field = model.model_fields.get(str(name))
        if field is None:
            continue
        meaning = f" Meaning: {_sentence(field.description)}" if field.description else ""
        model = _nested_model(field) or model
    return model, meaning


def _nested_model(field: FieldInfo) -> type[BaseModel] | None:
    options = (field.annotation, *get_args(field.annotation))
    models = [item for item in options if isinstance(item, type) and issubclass(item, BaseModel)]
    return models[0] if models else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
