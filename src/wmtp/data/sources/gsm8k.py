"""GSM8K: grade-school word problems with worked solutions (Cobbe et al. 2021, arXiv:2110.14168)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from wmtp.data.answers import marked_answer
from wmtp.data.example import Example
from wmtp.data.records import field_of
from wmtp.data.sources.base import Source
from wmtp.data.sources.worked import WorkedSection, split_records
from wmtp.errors import DataError

HUB_ID = "openai/gsm8k"
_HOW = (
    "Download grade_school_math/data/train.jsonl and test.jsonl from "
    "github.com/openai/grade-school-math and set path to their folder, or set hub: true."
)


class Gsm8k(Source):
    """GSM8K's problems with the published solutions, which end in `#### ANSWER`; reward 1, no tests."""

    licence: ClassVar[str] = "MIT"

    class Config(WorkedSection):
        """Settings of the source."""

    def examples(self, split: str) -> Iterator[Example]:
        """Yield one example per problem of the split, in the order of the file.

        The task_id is the place in the authors' file, `gsm8k/train/0` for the first of train.jsonl.
        """
        for found in split_records("gsm8k", self.config, split, HUB_ID, "main", _HOW):
            solution = field_of(found.record, "answer", str, found.where, _HOW)
            if marked_answer(solution) is None:
                raise DataError(f"{found.where}: the solution has no answer after '####'. {_HOW}")
            yield Example(
                task_id=found.task_id,
                prompt=field_of(found.record, "question", str, found.where, _HOW).strip() + "\n",
                completion=solution.strip(),
                reward=1.0,
                source="gsm8k",
                split=split,
            )
