"""Print what is installed as constraints: `.venv/bin/python scripts/pin.py > constraints.txt`."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement

HEADER = """\
# Versions that the tests pass with: our dependencies and theirs, without those of the build.
# Made by `.venv/bin/python scripts/pin.py > constraints.txt`.
"""
EXTRAS = {"eval", "tracking", "meta", "lora", "lm-eval", "dev"}


def main() -> None:
    """Print the header and one `name==version` per distribution that wmtp leads to."""
    pins: dict[str, str] = {}
    collect("wmtp", EXTRAS, pins, set())
    del pins["wmtp"]
    print(HEADER + "\n".join(f"{name}=={version}" for name, version in sorted(pins.items())))


def collect(name: str, extras: set[str], pins: dict[str, str], seen: set[tuple[str, str]]) -> None:
    """Add the installed version of `name` and of all that it needs to `pins`."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return  # needed on other systems only
    pins[normalised(name)] = found.version.partition("+")[0]
    for extra in {"", *extras}:
        if (normalised(name), extra) in seen:
            continue
        seen.add((normalised(name), extra))
        for text in found.requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                collect(needed.name, needed.extras, pins, seen)


def normalised(name: str) -> str:
    """Return `name` as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
