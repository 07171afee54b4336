"""MATH: competition problems with worked solutions (Hendrycks et al. 2021, arXiv:2103.03874)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

from wmtp.data.answers import boxed_answer
from wmtp.data.example import Example
from wmtp.data.records import field_of
from wmtp.data.sources.base import Source
from wmtp.data.sources.worked import WorkedSection, split_records
from wmtp.errors import DataError

HUB_ID = "HuggingFaceH4/MATH-500"
_HOW = (
    "Download prm800k/math_splits/test.jsonl (MATH-500) or train.jsonl from github.com/openai/prm800k "
    "and set path to it or its folder, or set hub: true, which has the test split only."
)


class Math(Source):
    r"""MATH's problems with the published solutions, whose answer is in \boxed{}; reward 1, no tests."""

    licence: ClassVar[str] = "MIT"

    class Config(WorkedSection):
        """Settings of the source."""

    def examples(self, split: str) -> Iterator[Example]:
        """Yield one example per problem of the split, in the order of the file.

        The task_id is `math/` and the unique_id, else the place in the file; difficulty is the
        level, 1 to 5.
        """
        for found in split_records("math", self.config, split, HUB_ID, None, _HOW):
            record, where = found.record, found.where
            solution = field_of(record, "solution", str, where, _HOW)
            if boxed_answer(solution) is None:
                raise DataError(f"{where}: the solution has no answer in \\boxed{{}}. {_HOW}")
            yield Example(
                task_id=found.task_id,
                prompt=field_of(record, "problem", str, where, _HOW).strip() + "\n",
                completion=solution.strip(),
                reward=1.0,
                difficulty=_level(record, where),
                source="math",
                split=split,
            )


def _level(record: dict[str, Any], where: str) -> float | None:
    """Return the level: a number, "Level 4", or None where the data set has "Level ?"."""
    level = record.get("level")
    found = re.fullmatch(r"(?:Level )?([1-5?])", str(level))
    if level is not None and not found:
        raise DataError(
            f"{where}: level must be 1 to 5 or 'Level 1' to 'Level 5', found {level!r}."
        )
    return None if found is None or found[1] == "?" else float(found[1])
