"""Solutions of pipelines: one composition written as Python in several styles."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Literal, get_args

from wmtp.data.sources.minicode.operations import Domain, Operation
from wmtp.data.sources.minicode.problems import Pipeline

_INDENT = "    "
_FORMS = ("nested", "steps", "loops")
Style = Literal["nested", "steps", "loops", "lambdas", "mixed"]
STYLES: tuple[Style, ...] = get_args(Style)


def pipeline_solutions(
    problem: Pipeline, number: int, styles: tuple[Style, ...] = STYLES
) -> list[str]:
    """Return up to `number` different function bodies, each in another style while there are any.

    Styles: `nested` expressions, `steps` with one assignment each, `loops` and in-place statements,
    `lambdas` in map and filter, and `mixed` nested, steps and loops.
    """
    rng = random.Random(f"solutions/{problem.seed}")
    found: dict[str, None] = {}
    for style in rng.sample(styles, len(styles)) * 2:
        if len(found) < number:
            found[_render(problem, style, rng)] = None
    return list(found)


def _render(problem: Pipeline, style: Style, rng: random.Random) -> str:
    """Return the function body in one style."""
    variable = problem.variable
    lines: list[str] = []
    value = variable  # the expression so far, not yet assigned
    for operation in _merge(problem.operations, rng):
        form = rng.choice(_FORMS) if style == "mixed" else style
        code = _expression(problem.domain, operation, lambdas=form == "lambdas")
        statements = _statements(problem.domain, operation, rng)
        as_loop = not code or (form == "loops" and statements)
        if value != variable and (as_loop or code.count("{v}") > 1 or not _is_closed(value)):
            lines.append(f"{variable} = {value}")
            value = variable
        if as_loop:
            lines += statements.replace("{v}", variable).split("\n")
        else:
            if code.startswith(("list(map(", "list(filter(")):
                value = _without_list(value)
            value = code.replace("{v}", value)
            if form not in ("nested", "lambdas") and not operation.reduces:
                lines.append(f"{variable} = {value}")
                value = variable
    return "\n".join(_INDENT + line for line in _with_return(lines, variable, value))


def _with_return(lines: list[str], variable: str, value: str) -> list[str]:
    """Return `lines` ended by a `return`; a last assignment to the variable becomes it."""
    last = lines[-1] if lines else ""
    if last.startswith("return "):
        return lines
    if value == variable and last.startswith(f"{variable} = "):
        return [*lines[:-1], "return " + last.removeprefix(f"{variable} = ")]
    return [*lines, f"return {value}"]


def _merge(operations: tuple[Operation, ...], rng: random.Random) -> Iterator[Operation]:
    """Yield the operations; half of the time a filter and the change after it are made one."""
    pending: Operation | None = None
    for operation in operations:
        if pending is not None and operation.element and rng.random() < 0.5:
            yield replace(operation, where=pending.where)
            pending = None
            continue
        if pending is not None:
            yield pending
        pending = operation if operation.where else None
        if pending is None:
            yield operation
    if pending is not None:
        yield pending


def _expression(domain: Domain, operation: Operation, *, lambdas: bool) -> str:
    """Return the operation as an expression of {v}, or "" when it only has statements."""
    if not (operation.element or operation.where):
        return operation.expression
    x = domain.element
    new = operation.element or x
    if operation.when:
        new = f"{new} if {operation.when} else {x}"
    if lambdas and domain.name == "numbers":
        source = f"filter(lambda {x}: {operation.where}, {{v}})" if operation.where else "{v}"
        return f"list(map(lambda {x}: {new}, {source}))" if new != x else f"list({source})"
    clause = f"{x} in {{v}} if {operation.where}" if operation.where else f"{x} in {{v}}"
    return domain.comprehension.replace("{e}", new).replace("{clause}", clause)


def _statements(domain: Domain, operation: Operation, rng: random.Random) -> str:
    """Return the operation as statements on {v}, or "" when it only has an expression."""
    if not (operation.element or operation.where):
        return operation.statements
    x, when, where = domain.element, operation.when, operation.where
    new = operation.element or x
    if domain.name == "numbers" and not where and rng.random() < 0.5:
        lines = [f"for i, {x} in enumerate({{v}}):", *_guarded(when, f"{{v}}[i] = {new}")]
        return "\n".join(lines)
    if when:
        new = f"{new} if {when} else {x}"
    push = domain.push.replace("{e}", new)
    return "\n".join(
        [f"out = {domain.start}", f"for {x} in {{v}}:", *_guarded(where, push), "{v} = out"]
    )


def _guarded(condition: str, statement: str) -> list[str]:
    """Return the lines of a loop body that runs `statement` under a condition, if there is one."""
    if condition:
        return [f"{_INDENT}if {condition}:", f"{_INDENT * 2}{statement}"]
    return [f"{_INDENT}{statement}"]


def _without_list(value: str) -> str:
    """Return the iterable that a `list(...)` is made of; map and filter need no list."""
    return value[5:-1] if value.startswith("list(") and value.endswith(")") else value


@cache
def _is_closed(expression: str) -> bool:
    """Tell whether `expression` can stand before a subscript or an operator without parentheses."""
    closed = ast.Name, ast.Call, ast.Subscript, ast.List, ast.ListComp
    return isinstance(ast.parse(expression, mode="eval").body, closed)
