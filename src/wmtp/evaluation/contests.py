"""Tasks of programming contests: whole programs, limits from the statement, comparison of output."""

from __future__ import annotations

import re

from pydantic import Field

from wmtp.config.section import Section
from wmtp.evaluation.benchmark import Task
from wmtp.sandbox import Comparison, Limits, StdioProgram

ALL_TESTS_FACTOR = 10  # CPU time of all tests together, in multiples of that of one
OUTPUT_SLACK_BYTES = 64 << 10
SEVERAL_ANSWERS = "several answers may be right; only that of the tests is accepted"

_DECIMAL = re.compile(r"(?<![\w.])[+-]?\d*\.\d+(?![\w.])")
_ANY_CASE = re.compile(
    r"(any|either|arbitrary) (letter )?(case|register)|case[- ]insensitive"
    r"|(upper|lower)[- ]?case or (upper|lower)[- ]?case|upper or lower case",
    re.IGNORECASE,
)
_ANY_ANSWER = re.compile(
    r"\b(print|output|find|report) (any|an arbitrary)\b(?! (letter|case|register))"
    r"|\b(multiple|several|many|more than one)\b[^.]{0,40}\b(answers?|solutions?|outputs?|such \w+)\b"
    r"[^.]{0,60}\b(any|arbitrary)\b"
    r"|\b(print|output)\b[^.]{0,60}\bin (any|arbitrary) order"
    r"|\bany (valid|correct|possible) (answer|solution|output)",
    re.IGNORECASE,
)


class ContestSection(Section):
    """How programs of contests are judged."""

    time_factor: float = Field(
        5.0,
        gt=0,
        description="CPU time of a program per test, in multiples of the problem's time limit: those "
        "are for compiled programs.",
    )
    float_tolerance: float | None = Field(
        1e-6,
        ge=0,
        description="How far a number may be off, absolutely or relatively, in problems whose expected "
        "outputs have a decimal point; null: numbers are words.",
    )
    by_line: bool = Field(False, description="Compare line by line, in place of word by word.")


def comparison(config: ContestSection, tests: tuple[tuple[str, str], ...], text: str) -> Comparison:
    """Return the rule for a problem: its statement `text` says whether the case of letters counts."""
    has_decimals = any(_DECIMAL.search(expected) for _, expected in tests)
    return Comparison(
        by_line=config.by_line,
        tolerance=config.float_tolerance if has_decimals else None,
        ignore_case=bool(_ANY_CASE.search(text)),
    )


def note(text: str) -> str:
    """Return what the verdicts on a problem with the statement `text` do not decide, or ""."""
    return SEVERAL_ANSWERS if _ANY_ANSWER.search(text) else ""


def limits(time_limit_seconds: float, factor: float, tests: tuple[tuple[str, str], ...]) -> Limits:
    """Return the limits of one test of a problem.

    Wall time is three times the CPU time, so that a busy machine is told from a slow program. Memory
    is 2 GiB: address space counts, of which programs reserve much for the stacks of threads.
    """
    cpu = factor * time_limit_seconds
    longest = max(len(expected.encode("utf-8", "replace")) for _, expected in tests)
    return Limits(
        cpu_seconds=cpu,
        wall_seconds=3 * cpu + 2,
        memory_bytes=2 << 30,
        output_bytes=2 * longest + OUTPUT_SLACK_BYTES,
    )


def contest_program(task: Task, completion: str) -> StdioProgram:
    """Return the completion with the task's inputs and expected outputs."""
    assert task.limits is not None
    return StdioProgram(
        task.code_prefix + completion,
        task.io_tests,
        task.comparison,
        task.limits,
        ALL_TESTS_FACTOR * task.limits.cpu_seconds,
    )
