"""HumanEval+: HumanEval with about 80 times as many tests (Liu et al. 2023, arXiv:2305.01210)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from wmtp.config.section import Section
from wmtp.data.example import Example
from wmtp.data.records import field_of, read_records
from wmtp.data.sources.base import Source, require_new
from wmtp.data.sources.evalplus import all_inputs, differential_tests, without_numpy
from wmtp.data.sources.humaneval import SPLITS, check_call, function_example
from wmtp.data.splits import require_split

HUB_ID = "evalplus/humanevalplus"
_HOW = (
    "Download HumanEvalPlus.jsonl.gz from the releases of github.com/evalplus/humanevalplus_release "
    "and set path, or set hub: true."
)


class HumanEvalPlus(Source):
    """HumanEval+'s problems with their reference solutions, reward 1, in the one split `test`."""

    licence: ClassVar[str] = "Apache 2.0"
    split_names: ClassVar[tuple[str, ...]] = SPLITS

    class Config(Section):
        """Settings of the source."""

        path: str | None = Field(
            None, description="HumanEvalPlus.jsonl.gz of evalplus, or a file with the hub's fields."
        )
        hub: bool = Field(False, description=f"Load {HUB_ID} through `datasets` instead.")

    def examples(self, split: str) -> Iterator[Example]:
        """Yield one example per problem, in the order of the file."""
        require_split("humanevalplus", split, SPLITS)
        hub = HUB_ID if self.config.hub else None
        seen: set[str] = set()
        for where, record in read_records(self.config.path, hub, how=_HOW):
            example = function_example(
                record, where, _HOW, tests=_tests(record, where), source="humanevalplus"
            )
            require_new(example.task_id, seen, where)
            yield example


def _tests(record: dict[str, Any], where: str) -> str:
    if "base_input" in record:
        prompt = field_of(record, "prompt", str, where, _HOW)
        reference = prompt + field_of(record, "canonical_solution", str, where, _HOW)
        inputs = all_inputs(record, where)
        return differential_tests(record, reference, inputs, "humaneval", where)
    tests = without_numpy(field_of(record, "test", str, where, _HOW))
    return f"{tests}\n{check_call(record, where, _HOW)}"
