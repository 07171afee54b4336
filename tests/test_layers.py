"""Who may import whom: each part of the package imports only parts of lower layers."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wmtp.registry import ALGORITHMS

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "wmtp"

# From the bottom. Parts of one layer never import each other.
LAYERS = (
    {"errors"},
    {"inputs"},
    {"registry", "outputs", "sandbox", "run_folder", "display"},
    {"config", "losses", "weighting", "pretrained"},
    {"tracking", "provenance", "inventory"},
    {"modeling", "data"},
    {"algorithms"},
    {"training", "evaluation"},
    {"report"},
    {"pipeline", "doctor"},
    {"cli_options"},
    {"cli_data", "cli_evaluation"},
    {"cli"},
    {"__main__"},
)
LAYER_OF = {part: layer for layer, parts in enumerate(LAYERS) for part in parts}

# What a part may import of ours, where that is less than all lower layers.
ONLY = {
    "losses": set(),
    "weighting": set(),
    "pretrained": {"errors"},
    "sandbox": {"errors"},
    "display": set(),
    "evaluation": set(LAYER_OF) - {"algorithms"},
}

# What a part may import besides the standard library, where that is limited.
THIRD_PARTY = {
    "errors": set(),
    "inputs": set(),
    "registry": set(),
    "outputs": set(),
    "sandbox": set(),
    "run_folder": set(),
    "inventory": set(),
    "provenance": set(),
    "tracking": {"mlflow", "sqlalchemy"},
    "display": {"rich"},
    "config": {"pydantic", "pydantic_core", "yaml"},
    "losses": {"torch", "jaxtyping", "liger_kernel", "cut_cross_entropy"},
    "weighting": {"torch", "jaxtyping"},
}


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if part_of(file) != "__init__"]


def imported(file: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            whole = node.module == "wmtp"
            yield from (f"wmtp.{alias.name}" if whole else str(node.module) for alias in node.names)


def imported_parts(file: Path) -> set[str]:
    ours = (name.split(".") for name in imported(file) if name.startswith("wmtp."))
    return {names[1] for names in ours} - {part_of(file)}


def test_every_part_has_its_layer() -> None:
    assert {part_of(file) for file in FILES} <= set(LAYER_OF)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down(file: Path) -> None:
    part = part_of(file)
    allowed = {other for other, layer in LAYER_OF.items() if layer < LAYER_OF[part]}
    assert imported_parts(file) <= allowed & ONLY.get(part, allowed)


@pytest.mark.parametrize("part", THIRD_PARTY)
def test_light_parts_stay_light(part: str) -> None:
    found = {
        name.partition(".")[0] for file in FILES if part_of(file) == part for name in imported(file)
    }
    assert found - set(sys.stdlib_module_names) - {"wmtp"} <= THIRD_PARTY[part]


def test_algorithms_do_not_import_each_other() -> None:
    schemes = {place.partition(":")[0] for _, place in ALGORITHMS.items()}
    assert "wmtp.algorithms.critic" in schemes
    for file in (PACKAGE / "algorithms").glob("*.py"):
        assert not set(imported(file)) & schemes, file.name
