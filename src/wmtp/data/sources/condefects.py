"""ConDefects: faulty AtCoder programs and their corrections (Wu et al. 2023, arXiv:2310.16253)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from reprlib import repr as shortened
from typing import Any, ClassVar

from pydantic import Field

from wmtp.config.section import Section
from wmtp.data.example import Example
from wmtp.data.faults import fault_spans
from wmtp.data.records import field_of, read_records
from wmtp.data.sources.base import Source
from wmtp.data.sources.fields import code_of, told
from wmtp.data.splits import hashed_split, require_split
from wmtp.errors import DataError

SPLITS = ("train", "validation", "test")
_HOW = (
    "Put the Python pairs of github.com/appmlk/ConDefects into records {task_id, difficulty, "
    "correct, incorrect}, the last two from correctVersion.py and faultyVersion.py, and set path."
)


class ConDefects(Source):
    """Corrected programs, reward 1, and faulty ones, reward 0, with what the correction changed.

    They read standard input and write standard output. There are no statements and no tests: the
    prompt names the task alone, and the labels are those of the authors.
    """

    licence: ClassVar[str] = "CC BY-SA 4.0 (the programs: AtCoder's participants, as fair use)"

    class Config(Section):
        """Settings of the source."""

        path: str | None = Field(None, description="File with one record per pair.")
        max_chars: int = Field(
            20_000, gt=0, description="Pairs with a longer program (up to 192,220) are left out."
        )
        validation_share: float = Field(0.05, ge=0, lt=0.5, description="Share of the tasks.")
        test_share: float = Field(0.05, ge=0, lt=0.5, description="Share of the tasks.")

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the examples of one split's tasks by place in the file, correct before faulty.

        Pairs that are too long and programs that repeat one of their task are left out.
        """
        require_split("condefects", split, SPLITS)
        shares = {"test": self.config.test_share, "validation": self.config.validation_share}
        seen: set[tuple[str, str]] = set()
        left_out: Counter[str] = Counter()
        try:
            for where, record in read_records(self.config.path, None, how=_HOW):
                task = field_of(record, "task_id", str, where, _HOW)
                if hashed_split(task, **shares) != split:
                    continue
                correct = code_of(record, "correct", where, _HOW)
                incorrect = code_of(record, "incorrect", where, _HOW)
                if max(len(correct), len(incorrect)) > self.config.max_chars:
                    left_out[f"pairs of more than {self.config.max_chars} characters"] += 1
                    continue
                difficulty = _difficulty(record, where)
                for example in _pair(task, correct, incorrect, difficulty, split):
                    if (task, example.completion) in seen:
                        left_out["repeated programs"] += 1
                        continue
                    seen.add((task, example.completion))
                    yield example
        finally:
            if left_out:
                self.notices.append(f"condefects, split {split}: left out {told(left_out)}")
        if not seen:
            raise DataError(
                f"{self.config.path}: no example in split {split!r}. Give a file with more tasks, "
                "or change the shares of the splits or max_chars."
            )


def _difficulty(record: dict[str, Any], where: str) -> float | None:
    value = record.get("difficulty")
    if value is None or value == "unknown":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e6:
        raise DataError(
            f"{where}: difficulty must be a number or 'unknown', found {shortened(value)}. {_HOW}"
        )
    return float(value)


def _pair(
    task: str, correct: str, incorrect: str, difficulty: float | None, split: str
) -> tuple[Example, Example]:
    right = Example(
        task_id=f"condefects/{task}",
        prompt=f"# AtCoder task {task}. Reads standard input, writes standard output.\n",
        completion=correct,
        reward=1.0,
        difficulty=difficulty,
        source="condefects",
        split=split,
    )
    spans = fault_spans(incorrect, correct)
    return right, replace(right, completion=incorrect, reward=0.0, fault_spans=spans)
