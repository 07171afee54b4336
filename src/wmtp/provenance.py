"""Where a result comes from: code, libraries, machine, time and command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from wmtp.config.secrets import without_secrets

_PACKAGES = (
    "wmtp",
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "mlflow",
)


def provenance() -> dict[str, Any]:
    """Return what a reader needs to repeat a result, as plain JSON values without secrets.

    Keys: `versions` (installed packages), `commit` and `dirty` (null outside a git checkout),
    `python`, `platform`, `cpus`, `device` (null unless torch is loaded), `time` (UTC, ISO 8601),
    `command` (arguments). Imports nothing heavy.
    """
    commit = _git("rev-parse", "HEAD")
    return {
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain")) if commit else None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": available_cpus(),
        "device": _device(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *without_secrets(sys.argv[1:])],
    }


def available_cpus() -> int:
    """Return the number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Return the output of git about the checkout this file belongs to, or None outside one."""
    here = Path(__file__).resolve()
    command = ["git", "-C", str(here.parent), *arguments]
    try:
        tracked = ["git", "-C", str(here.parent), "ls-files", "--error-unmatch", here.name]
        subprocess.run(tracked, capture_output=True, check=True, timeout=10)
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _device() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())  # pragma: gpu
    return "mps" if torch.backends.mps.is_available() else "cpu"
