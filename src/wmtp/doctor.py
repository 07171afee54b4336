"""What works on this machine, and what to do about what does not."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from wmtp.config.environment import Environment
from wmtp.errors import OutputError
from wmtp.outputs import writing
from wmtp.provenance import available_cpus

Status = Literal["ok", "warning", "failed"]

_GIB = 1 << 30
_NEEDED_MEMORY = 3 * _GIB
_NEEDED_DISK = 1 * _GIB


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `fix` says what to do and is empty when all is well."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def examine(environment: Environment) -> Iterator[Check]:
    """Yield one check after the other; the main job works when none has failed.

    Imports torch, starts one sandboxed program, and leaves nothing behind.
    """
    checks: tuple[Callable[[Environment], Check], ...] = (
        _python,
        _libraries,
        _torch,
        _memory,
        _sandbox,
        _tracking,
        _output,
        _disk,
    )
    for check in checks:
        yield check(environment)


def _python(_: Environment) -> Check:
    return Check("python", "ok", f"{platform.python_version()}, {sys.executable}")


def _libraries(_: Environment) -> Check:
    names = ("transformers", "accelerate", "tokenizers", "safetensors")
    try:
        return Check("libraries", "ok", ", ".join(f"{name} {version(name)}" for name in names))
    except PackageNotFoundError as error:
        return Check("libraries", "failed", f"{error.name} is missing", "Run `make install`.")


def _torch(environment: Environment) -> Check:
    try:
        import torch
    except ImportError as error:
        return Check("torch", "failed", str(error), "Run `make install`.")
    except OSError as error:  # a shared library that cannot be loaded
        return Check("torch", "failed", str(error), "Reinstall torch: `make clean install`.")
    threads = environment.threads or torch.get_num_threads()
    cpu = f"{torch.__version__}, {threads} threads on {available_cpus()} processors"
    if torch.cuda.is_available():  # pragma: gpu
        properties = torch.cuda.get_device_properties(0)
        memory = f"{properties.total_memory / _GIB:.0f} GiB"
        return Check("torch", "ok", f"{cpu}, {properties.name} with {memory}")
    if torch.backends.mps.is_available():  # pragma: gpu
        return Check("torch", "ok", f"{cpu}, Apple GPU")
    if environment.device not in {"auto", "cpu"}:
        fix = "Set device to auto or cpu in the environment, or install a torch build for this GPU."
        return Check("torch", "failed", f"{cpu}, but no {environment.device} device", fix)
    return Check("torch", "ok", f"{cpu}, no GPU")


def _memory(_: Environment) -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container, which may have less
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    detail = f"{total / _GIB:.1f} GiB"
    if total < _NEEDED_MEMORY:
        return Check(
            "memory", "warning", detail, "The quickstart wants 4 GiB; close other programs."
        )
    return Check("memory", "ok", detail)


def _sandbox(environment: Environment) -> Check:
    from wmtp.sandbox import landlock, tiers

    if environment.sandbox.mode == tiers.LIMITS_ONLY:
        if reason := tiers.why_unavailable(tiers.LIMITS_ONLY):
            return Check("sandbox", "failed", f"limits-only: {reason}", tiers.FIX)
        detail = "limits-only, as the environment asks: programs see this machine"
        return Check("sandbox", "warning", detail, "Set sandbox.mode to auto where that works.")
    status = tiers.probe()
    if status.tier is None:
        return Check("sandbox", "failed", "; ".join(status.lines), tiers.FIX)
    kernel = landlock.version(ctypes.CDLL(None))
    layers = [status.tier, "system-call filter", f"Landlock {kernel or 'missing'}"]
    return Check("sandbox", "ok", f"{', '.join(layers)}; shown to contain hostile programs")


def _tracking(environment: Environment) -> Check:
    section = environment.tracking
    if not section.enabled:
        return Check("tracking", "ok", "disabled in the environment")
    try:
        return Check("tracking", "ok", f"mlflow {version('mlflow')}, {section.uri}")
    except PackageNotFoundError:
        fix = "Run pip install 'wmtp[tracking]' or set tracking.enabled to false."
        return Check("tracking", "failed", "MLflow is not installed", fix)


def _output(environment: Environment) -> Check:
    root = Path(environment.output_root).absolute()
    try:
        with writing(root), tempfile.TemporaryFile(dir=_existing(root)) as file:
            file.write(b"0")
    except (OutputError, OSError) as error:
        return Check("output", "failed", str(error), "Set output_root in the environment.")
    return Check("output", "ok", f"{root} can be written")


def _disk(environment: Environment) -> Check:
    free = shutil.disk_usage(_existing(Path(environment.output_root).absolute())).free
    detail = f"{free / _GIB:.1f} GiB free"
    if free < _NEEDED_DISK:
        return Check("disk", "warning", detail, "Free some space; runs take up to 1 GiB.")
    return Check("disk", "ok", detail)


def _existing(path: Path) -> Path:
    """Return the nearest folder above `path` that exists, or `path` itself."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
