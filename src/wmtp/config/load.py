"""Recipe and environment files: reading, overriding, checking and writing them.

Every mistake is named by file, line and field, all of a file at once:
`recipes/rho1.yaml:14 algorithm.keep: 1.7 is above 1. Meaning: Share of targets that are kept.`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from wmtp.config import secrets, yaml_text
from wmtp.config.environment import Environment
from wmtp.config.problems import explain
from wmtp.config.recipe import Recipe
from wmtp.config.section import OpenSection
from wmtp.config.yaml_text import KeyPath, dotted
from wmtp.errors import ConfigError, near_match

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(slots=True)
class Document:
    """A settings file with its overrides applied.

    label: the file as messages name it. data: its values. lines: line (from 1) of each key path.
    overrides: the command-line text that set a key path.
    """

    label: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overrides: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """Return where `path` was set: `FILE:LINE field`, or the text of its override."""
        for set_path, text in reversed(self.overrides.items()):
            inside = path[: len(set_path)] == set_path
            created = path not in self.lines and set_path[: len(path)] == path
            if path and (inside or created):
                below = path[len(set_path) :]
                return f"{text} ({dotted(path)})" if below else text
        known = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in self.lines), None)
        line = f":{self.lines[known]}" if known else ""
        return f"{self.label}{line} {dotted(path)}".rstrip()

    def override(self, settings: Iterable[str], option: str = "--set") -> None:
        """Apply `a.b=value` texts, whose values are YAML; `option` names them in messages."""
        for setting in settings:
            name, equals, text = setting.partition("=")
            path = tuple(name.strip().split("."))
            if not equals or not all(path):
                raise ConfigError(f"{option} {name}: write it as {option} section.key=value.")
            parsed = yaml_text.parse(text, f"{option} {name}", substitute=False)
            if parsed.problems:
                raise ConfigError("\n".join(parsed.problems))
            if any(secrets.find({path[-1]: parsed.data})):
                raise ConfigError(f"{option} {name}=...: {secrets.ADVICE}")
            self.overrides.pop(path, None)
            self.overrides[path] = f"{option} {setting}"
            self._assign(path, parsed.data)

    def _assign(self, path: tuple[str, ...], value: Any) -> None:
        target = self.data
        for depth, part in enumerate(path[:-1], start=1):
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
            if not isinstance(target, dict):
                whole = dotted(path[:depth])
                raise ConfigError(
                    f"{self.where(path)}: {whole} is not a group of settings. Set {whole} itself."
                )
        target[path[-1]] = value

    def validate(self, model: type[ModelT]) -> ModelT:
        """Return the document as `model`; all mistakes together are one `ConfigError`."""
        return self._validated(model, self.data, ())

    def validate_options(self, section: OpenSection, config: type[ModelT], at: KeyPath) -> ModelT:
        """Return the options of the open `section` at key path `at` as `config`."""
        return self._validated(config, section.options, at, tuple(type(section).model_fields))

    def _validated(
        self, model: type[ModelT], data: Any, at: KeyPath, also_known: tuple[str, ...] = ()
    ) -> ModelT:
        try:
            return model.model_validate(data)
        except ValidationError as caught:
            found: dict[str, list[str]] = {}
            for error in caught.errors(include_url=False):
                path = (*at, *_path_in(data, error["loc"], missing=error["type"] == "missing"))
                found.setdefault(self.where(path), []).append(explain(error, model, also_known))
            raise ConfigError(
                "\n".join(f"{where}: {' Or: '.join(texts)}" for where, texts in found.items())
            ) from None


def _path_in(data: Any, location: tuple[str | int, ...], *, missing: bool) -> KeyPath:
    """Return `location` without the names that pydantic adds for the branches of a union."""
    path: KeyPath = ()
    for part in location:
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, dict) and part in data):
            data = data[part]
            path = (*path, part)
    return (*path, location[-1]) if missing else path


def load_document(
    path: str | Path, overrides: Iterable[str] = (), option: str = "--set"
) -> Document:
    """Read a YAML file and apply overrides; `option` names these in messages.

    Raises `ConfigError` for a missing or broken file, a key given twice, an environment variable
    that is not set, and anything that looks like a password or token.
    """
    path = Path(path)
    parsed = yaml_text.parse(_text(path), str(path))
    data = {} if parsed.data is None else parsed.data
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {type(data).__name__}.")
    document = Document(str(path), data, parsed.lines)
    document.override(overrides, option)
    secret = [f"{document.where(at)}: {secrets.ADVICE}" for at in secrets.find(document.data)]
    if problems := [*parsed.problems, *secret]:
        raise ConfigError("\n".join(problems))
    return document


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = [file.name for file in path.parent.glob("*.y*ml")]
        raise ConfigError(
            f"{path}: no such file.{near_match(path.name, beside)} Check the path."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason}). Save it as UTF-8.") from None


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> tuple[Recipe, Document]:
    """Return the recipe in a file with `--set` overrides, and the document that knows its lines."""
    document = load_document(path, overrides)
    return document.validate(Recipe), document


def load_environment(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Environment:
    """Return the environment in a file, or the default one, with `--set-env` overrides."""
    if path is not None:
        return load_document(path, overrides, "--set-env").validate(Environment)
    document = Document("environment", {})
    document.override(overrides, "--set-env")
    return document.validate(Environment)


def dump(model: BaseModel) -> str:
    """Return YAML from which `load_document` and `validate` give an equal model."""
    return yaml_text.dump(model.model_dump(mode="json"))
