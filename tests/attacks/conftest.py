"""A sandbox for hostile programs, in every isolated tier that works on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wmtp.sandbox import Limits, Program, Sandbox, Verdict, tiers

Run = Callable[..., Verdict]

# Short, so that programs that run until they are stopped cost little.
LIMITS: dict[str, Any] = {
    "cpu_seconds": 0.2,
    "wall_seconds": 5.0,
    "memory_bytes": 256 << 20,
    "file_bytes": 4 << 20,
}


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """The strongest isolation that works here."""
    status = tiers.probe()
    if status.tier is None:
        pytest.skip("; ".join(status.lines))
    with Sandbox(workers=1) as sandbox:
        yield sandbox


@pytest.fixture
def run(sandbox: Sandbox) -> Run:
    """`run(code, tests, **limits)` returns the verdict on one program."""

    def run(code: str, tests: str = "", **limits: Any) -> Verdict:
        program = Program(code, tests, Limits(**{**LIMITS, **limits}))
        [(_, verdict)] = sandbox.judge([program])
        return verdict

    return run
