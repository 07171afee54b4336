"""How a failure is told: the outcome that it is and a text about it."""

from __future__ import annotations

import traceback
import types

TEXT_LENGTH = 10_000  # of what is reported about an error; a verdict keeps less of it


def failure(error: BaseException, prefix: str, tests: str | None = None) -> tuple[str, str]:
    """Return outcome and text for what code or `tests` raised."""
    outcome = "memory" if isinstance(error, MemoryError) else "failed"
    return outcome, prefix + describe(error, tests)


def describe(error: BaseException, tests: str | None = None) -> str:
    """Return a text about `error`, with the failing line of `tests` when they are given."""
    name = getattr(error, "candidate_name", type(error).__name__)
    try:
        text = str(error)[:TEXT_LENGTH]
    except BaseException as inner:  # noqa: BLE001  the error may be the program's own class
        text = f"(its text cannot be had: {type(inner).__name__})"
    where = ""
    if tests is not None:
        lines = [n for f, n in traceback.walk_tb(error.__traceback__) if _is_tests(f)]
        if lines:
            where = (
                f" at line {lines[-1]} of the tests: {tests.splitlines()[lines[-1] - 1].strip()}"
            )
    return f"{name[:100]}{': ' if text else ''}{text}{where}"


def _is_tests(frame: types.FrameType) -> bool:
    return frame.f_code.co_filename == "<tests>"
