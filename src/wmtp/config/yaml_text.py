"""YAML as our files use it: typed plain scalars, line numbers, `${VAR:-default}`.

Scalars follow the YAML 1.2 core schema where PyYAML follows 1.1: `3e-4` is a number, `no` and
`2026-01-31` are text.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from wmtp.config import secrets
from wmtp.errors import ConfigError

KeyPath = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_]\w*)(?::-([^}]*))?\})?")
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$|0x[0-9a-fA-F]+$")
_MERGE = "tag:yaml.org,2002:merge"
_MOST_VALUES = 10_000


class _Loader(yaml.SafeLoader):
    """Reads plain scalars by the patterns below alone."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", re.compile(r"<<$"), ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)


class _Dumper(yaml.SafeDumper):
    """Quotes what either schema would read as something other than text."""


def _quoted(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # These count as line ends in YAML 1.1, which every other style folds away.
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_representer(str, _quoted)


@dataclass(slots=True)
class Parsed:
    """A YAML text as plain data, with the line (from 1) of each key path and all that is wrong."""

    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def parse(text: str, label: str, *, substitute: bool = True) -> Parsed:
    """Return the data of a YAML text; `label` names it in messages.

    `${VAR}` and `${VAR:-default}` are replaced in values; a plain value is typed after that, a
    quoted one stays text; `$${` stands for `${`. Broken YAML is a `ConfigError` with its line;
    deep nesting and more than 10,000 keys and values, aliases resolved, are one too.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        builder = _Builder(loader, label, substitute)
        if node is not None:
            builder.parsed.data = builder.value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{label}{line}: not valid YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{label}: not valid YAML: {reason}.") from error
    except RecursionError:
        raise ConfigError(f"{label}: nested too deeply. Write fewer levels.") from None
    loader.dispose()
    return builder.parsed


def dump(value: Any) -> str:
    """Return YAML that `parse` reads back as `value` (mappings keep their order)."""
    return yaml.dump(_escaped(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


class _Builder:
    """Turns nodes into data, noting lines and problems on the way."""

    def __init__(self, loader: _Loader, label: str, substitute: bool) -> None:
        self.loader = loader
        self.label = label
        self.substitute = substitute
        self.parsed = Parsed()
        self.open: list[yaml.Node] = []
        self.num_values = 0

    def count(self) -> None:
        self.num_values += 1
        if self.num_values > _MOST_VALUES:
            raise ConfigError(
                f"{self.label}: more than {_MOST_VALUES:,} keys and values, with those that "
                "aliases (*name) repeat. Write fewer."
            )

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count()
        if node in self.open:
            self.problem(node, path, "an alias refers to what contains it. Write the value out.")
            return None
        self.open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.item(item, (*path, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode)
            return self.scalar(node, path)
        finally:
            self.open.pop()

    def item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.parsed.lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.problem(key, path, "a key must be a plain name.")
            elif name in first:
                self.problem(
                    key, (*path, name), f"given twice, first in line {first[name]}. Remove one."
                )
            first.setdefault(name, line)
        found: dict[str, Any] = {}
        for name, (key, item) in self.pairs(node, path).items():
            child = (*path, name)
            self.parsed.lines[child] = key.start_mark.line + 1
            found[name] = self.value(item, child)
        return found

    def pairs(
        self, node: yaml.MappingNode, path: KeyPath
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return key and value nodes by name, with those that `<<: *anchor` brings in."""
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, item in node.value:
            self.count()
            if key.tag != _MERGE:
                own[str(key.value)] = key, item
                continue
            bases = item.value if isinstance(item, yaml.SequenceNode) else [item]
            for base in reversed(bases):  # the first of them wins
                self.count()
                if isinstance(base, yaml.MappingNode):
                    merged |= self.pairs(base, path)
                else:
                    self.problem(base, (*path, "<<"), "expected an alias of a group of settings.")
        return merged | own

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if self.substitute and "${" in node.value:
            node.value = _VARIABLE.sub(lambda match: self.variable(match, node, path), node.value)
            if node.style is None:
                node.tag = self.loader.resolve(yaml.ScalarNode, node.value, (True, False))
        try:
            return self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            self.problem(node, path, f"cannot be read: {getattr(error, 'problem', error)}.")
            return None

    def variable(self, match: re.Match[str], node: yaml.Node, path: KeyPath) -> str:
        name, default = match.groups()
        if match[0] == "$${":
            return "${"
        if name is None:
            self.problem(
                node, path, "expected ${NAME} or ${NAME:-default}; write $${ for a plain ${."
            )
            return ""
        if secrets.names_secret(name):
            self.problem(node, path, f"${{{name}}} {secrets.ADVICE}")
            return ""
        value = os.environ.get(name) or default
        if value is None and name not in os.environ:
            advice = f"Set it, or write ${{{name}:-default}}."
            self.problem(node, path, f"the environment variable {name} is not set. {advice}")
        return value or ""

    def problem(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        where = f"{self.label}:{node.start_mark.line + 1} {dotted(path)}".rstrip()
        self.parsed.problems.append(f"{where}: {text}")


def dotted(path: KeyPath) -> str:
    """Return a key path as users write it: `model.num_heads`."""
    return ".".join(str(part) for part in path)
