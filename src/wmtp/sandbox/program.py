"""What goes into the sandbox and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wmtp.sandbox.comparison import EXACT, Comparison

OutcomeName = Literal["passed", "failed", "timeout", "memory", "output_limit", "error"]
DETAIL_LENGTH = 300


def one_line(text: str, length: int = DETAIL_LENGTH) -> str:
    """Return the beginning of `text` as one printable line of at most `length` characters."""
    line = " ".join(text[: 10 * length].split())[:length]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one program. Times in seconds, sizes in bytes."""

    cpu_seconds: float = 5.0
    wall_seconds: float = 15.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 32 << 20
    output_bytes: int = 1 << 20
    processes: int = 64
    open_files: int = 128


@dataclass(frozen=True, slots=True)
class Program:
    """Untrusted `code`, and trusted `tests` (Python source) that raise when the code is wrong."""

    code: str
    tests: str
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class StdioProgram:
    """Untrusted `code` that reads standard input and writes standard output.

    cases: tests in the order in which they are run, up to the first that fails; of each the input
    and the expected output, which are compared outside the sandbox. limits: of each test.
    total_cpu_seconds: of all tests together.
    """

    code: str
    cases: tuple[tuple[str, str], ...]
    comparison: Comparison = EXACT
    limits: Limits = Limits()
    total_cpu_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.cases:
            raise ValueError("a program without tests would pass whatever it does")


AnyProgram = Program | StdioProgram


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one program.

    outcome: `passed` only when all tests ran to their end without an exception. detail: one line
    for people, such as the exception; never trusted, and cleaned here whatever it was. seconds:
    wall time.
    """

    outcome: OutcomeName
    seconds: float
    detail: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", one_line(self.detail))
