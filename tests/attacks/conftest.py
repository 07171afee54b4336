"""A sandbox for hostile programs, in every isolated tier that works on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_sandbox import descendants
from wmtp.sandbox import Limits, Program, Sandbox, Verdict, tiers

Run = Callable[..., Verdict]

# Short, so that programs that run until they are stopped cost little.
LIMITS: dict[str, Any] = {
    "cpu_seconds": 0.2,
    "wall_seconds": 5.0,
    "memory_bytes": 256 << 20,
    "file_bytes": 4 << 20,
}


@pytest.fixture(scope="package")
def sandbox() -> Iterator[Sandbox]:
    """The strongest isolation that works here; after the last attack nothing of them is left."""
    status = tiers.probe()
    if status.tier is None:
        pytest.skip("; ".join(status.lines))
    before = _left_behind()
    with Sandbox(workers=1) as sandbox:
        yield sandbox
    assert _left_behind() == before


def _left_behind() -> tuple[set[int], list[str], list[str], list[str]]:
    """Return processes below this one, its open files, mounts, and shared memory of this machine."""
    if not Path("/proc/self").exists():
        return set(), [], [], []
    files = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors())
    shared = Path("/proc/sysvipc/shm")
    segments = shared.read_text().splitlines() if shared.exists() else []
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return descendants(os.getpid()), files, mounts, [line.split()[1] for line in segments]


def _descriptors() -> list[str]:
    found = os.listdir("/proc/self/fd")
    return [fd for fd in found if Path(f"/proc/self/fd/{fd}").exists()]


@pytest.fixture
def run(sandbox: Sandbox) -> Run:
    """`run(code, tests, **limits)` returns the verdict on one program."""

    def run(code: str, tests: str = "", **limits: Any) -> Verdict:
        program = Program(code, tests, Limits(**{**LIMITS, **limits}))
        [(_, verdict)] = sandbox.judge([program])
        return verdict

    return run
