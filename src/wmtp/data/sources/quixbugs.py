"""QuixBugs: 40 small programs, each right and with a bug in one line (Lin et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from wmtp.config.section import Section
from wmtp.data.example import Example
from wmtp.data.faults import fault_spans
from wmtp.data.records import field_of, read_records
from wmtp.data.sources.base import Source, require_new
from wmtp.data.sources.fields import code_of, with_lf
from wmtp.data.splits import require_split
from wmtp.errors import DataError

SPLITS = ("test",)
_HOW = (
    "Put the programs of github.com/jkoppel/QuixBugs into records {task_id, description, correct, "
    "incorrect, test_setup_code, test_list}, without their docstrings (only the incorrect ones "
    "have them), and set path."
)


class QuixBugs(Source):
    """Right programs, reward 1, and ones with a bug, reward 0, whose characters are marked."""

    licence: ClassVar[str] = "MIT"
    split_names: ClassVar[tuple[str, ...]] = SPLITS

    class Config(Section):
        """Settings of the source."""

        path: str | None = Field(None, description="File with one record per program.")

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the right and the wrong version of each program, in the order of the file.

        There is one split, `test`. Tests are the set-up code, then the calls or asserts.
        """
        require_split("quixbugs", split, SPLITS)
        seen: set[str] = set()
        for where, record in read_records(self.config.path, None, how=_HOW):
            pair = _examples(record, where)
            require_new(pair[0].task_id, seen, where)
            yield from pair


def _examples(record: dict[str, Any], where: str) -> tuple[Example, Example]:
    name = field_of(record, "task_id", str, where, _HOW).removeprefix("QuixBugs/")
    description = field_of(record, "description", str, where, _HOW)
    setup = code_of(record, "test_setup_code", where, _HOW)
    calls = field_of(record, "test_list", list, where, _HOW)
    if not calls or not all(isinstance(call, str) for call in calls):
        raise DataError(f"{where}: test_list must hold strings, at least one. {_HOW}")
    right = Example(
        task_id=f"quixbugs/{name}",
        prompt=f'"""\n{with_lf(description).strip()}\n"""\n',
        completion=code_of(record, "correct", where, _HOW),
        reward=1.0,
        tests="\n".join([*([setup] if setup else []), *calls]) + "\n",
        source="quixbugs",
        split="test",
    )
    incorrect = code_of(record, "incorrect", where, _HOW)
    spans = fault_spans(incorrect, right.completion)
    return right, replace(right, completion=incorrect, reward=0.0, fault_spans=spans)
