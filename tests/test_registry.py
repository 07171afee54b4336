"""Names of other packages, found through entry points."""

from __future__ import annotations

from pathlib import Path

import pytest

from wmtp.errors import ConfigError
from wmtp.inventory import Entry, inventory
from wmtp.registry import ALGORITHMS, BENCHMARKS, SOURCES, Registry


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package that adds two algorithms; return the file of its entry points."""
    (tmp_path / "other_package.py").write_text(
        '"""Schemes of others."""\n\nclass Scheme:\n    """Weights by the moon.\n\n    Long."""\n'
    )
    info = tmp_path / "other_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    points = info / "entry_points.txt"
    points.write_text(
        "[wmtp.algorithms]\nmoon = other_package:Scheme\nbroken = other_package:Missing\n"
        "gone = no_such_module:Scheme\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return points


def test_our_names_come_first_and_point_somewhere() -> None:
    for registry in (ALGORITHMS, SOURCES, BENCHMARKS):
        assert registry.names() == [name for name, _ in registry.items()]
        assert len(set(registry.names())) == len(registry.names()) > 0
    assert ALGORITHMS.names()[0] == "mtp-baseline"


def test_an_unknown_name_has_a_near_match() -> None:
    with pytest.raises(ConfigError, match=r"unknown algorithm 'rho1'\. Did you mean 'rho1-wmtp'\?"):
        ALGORITHMS.get("rho1")


def test_names_of_another_package(other_package: Path) -> None:
    assert "moon" in ALGORITHMS.names()
    assert ALGORITHMS.location("moon") == "other_package:Scheme"
    assert ALGORITHMS.get("moon").__name__ == "Scheme"
    assert "moon" not in SOURCES.names()


@pytest.mark.parametrize("name", ["broken", "gone"])
def test_a_name_that_points_nowhere(other_package: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"algorithm '{name}' points at .* cannot be imported"):
        ALGORITHMS.get(name)


def test_two_packages_with_one_name(other_package: Path) -> None:
    other_package.write_text("[wmtp.algorithms]\nrho1-wmtp = other_package:Scheme\n")
    with pytest.raises(ConfigError, match="'rho1-wmtp' is registered twice"):
        ALGORITHMS.names()


def test_the_same_registration_twice_is_none(other_package: Path) -> None:
    registry = Registry("algorithm", "wmtp.algorithms", {"moon": "other_package:Scheme"})
    assert registry.names() == ["moon", "broken", "gone"]


def test_the_inventory_imports_nothing_and_says_whose_it_is(
    other_package: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("# Trains mine.\nname: mine\n")
    (tmp_path / "bare.yaml").write_text("name: bare\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "several.yaml").write_text("# Compares.\narms:\n  one: {}\n")
    found = {(entry.kind, entry.name): entry for entry in inventory(tmp_path)}
    assert found["algorithm", "moon"] == Entry(
        "algorithm", "moon", "Weights by the moon.", "other-package"
    )
    assert found["algorithm", "broken"].summary == "Schemes of others."
    assert found["algorithm", "gone"].summary == ""
    assert found["algorithm", "mtp-baseline"].origin == "built-in"
    assert found["algorithm", "mtp-baseline"].summary != ""
    assert found["recipe", "mine"] == Entry(
        "recipe", "mine", "Trains mine.", str(tmp_path / "mine.yaml")
    )
    assert found["recipe", "bare"].summary == ""
    assert found["suite", "inner/several"].summary == "Compares."
