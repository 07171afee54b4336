"""What recipes can name: algorithms, data sources, benchmarks, and the recipes at hand."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from wmtp.registry import ALGORITHMS, BENCHMARKS, SOURCES, Registry


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of `wmtp list`. origin: `built-in`, a distribution, or the file of a recipe or suite.

    licence: of a data source's data, or "" where it is not said.
    """

    kind: str
    name: str
    summary: str
    origin: str
    licence: str = ""


def inventory(recipe_folder: Path = Path("recipes")) -> list[Entry]:
    """Return all names that recipes can use, and the recipes and suites in a folder; imports none."""
    found: list[Entry] = []
    for registry in (ALGORITHMS, SOURCES, BENCHMARKS):
        found.extend(_registered(registry))
    files = [
        Entry(_kind(file), _name(file, recipe_folder), _first_comment(file), str(file))
        for file in sorted(recipe_folder.rglob("*.yaml"))
    ]
    return found + sorted(files, key=lambda entry: entry.kind)


def _registered(registry: Registry) -> Iterator[Entry]:
    packages = {
        entry.name: entry.dist.name for entry in entry_points(group=registry.group) if entry.dist
    }
    for name, location in registry.items():
        origin = packages.get(name, "built-in")
        yield Entry(registry.kind, name, *_described(location, origin))


def _described(location: str, origin: str) -> tuple[str, str, str]:
    """Return first docstring line, origin and licence of `module:attribute`, without running it."""
    module, _, attribute = location.partition(":")
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return "", origin, ""
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            return _first_line(ast.get_docstring(node) or ""), origin, _licence(node)
    return _first_line(ast.get_docstring(tree) or ""), origin, ""


def _licence(node: ast.ClassDef) -> str:
    """Return the text that the body of a class gives to `licence`, or ""."""
    for statement in node.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id="licence"), value=ast.Constant(value=str(text))):
                return text
    return ""


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _kind(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return "suite" if any(line.startswith("arms:") for line in lines) else "recipe"


def _first_comment(file: Path) -> str:
    lines: Iterable[str] = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
