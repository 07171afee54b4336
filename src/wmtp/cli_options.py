"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wmtp.errors import ConfigError

EnvironmentFile = Annotated[
    Path | None, typer.Option("--env", metavar="FILE", help="Environment file: where to run.")
]
EnvironmentSettings = Annotated[
    list[str] | None,
    typer.Option("--set-env", metavar="KEY=VALUE", help="Override one setting of the environment."),
]
RecipeSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting of the recipe."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="Where to write; has a default.")
]
SandboxMode = Annotated[
    str | None,
    typer.Option(
        "--sandbox", metavar="auto|limits-only", help="limits-only accepts weaker isolation."
    ),
]


def sandbox_settings(mode: str | None, workers: int | None = None) -> list[str]:
    """Return --sandbox and --workers as settings of the environment, as far as they are given."""
    if mode not in (None, "auto", "limits-only"):
        raise ConfigError(f"--sandbox {mode}: expected auto or limits-only.")
    given = {"mode": mode, "workers": workers}
    return [f"sandbox.{name}={value}" for name, value in given.items() if value is not None]
