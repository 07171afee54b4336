"""HumanEval: 164 hand-written Python problems (Chen et al. 2021, arXiv:2107.03374)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from wmtp.config.section import Section
from wmtp.data.example import Example
from wmtp.data.records import field_of, read_records
from wmtp.data.sources.base import Source, require_new
from wmtp.data.splits import require_split
from wmtp.errors import DataError

HUB_ID = "openai/openai_humaneval"
SPLITS = ("test",)
_HOW = "Download data/HumanEval.jsonl.gz from github.com/openai/human-eval and set path, or set hub: true."


class HumanEvalSection(Section):
    """Where HumanEval is read from."""

    path: str | None = Field(None, description="HumanEval.jsonl, also .gz.")
    hub: bool = Field(False, description=f"Load {HUB_ID} through `datasets` instead.")


class HumanEval(Source):
    """HumanEval's problems with their reference solutions, reward 1, in the one split `test`."""

    licence: ClassVar[str] = "MIT"
    split_names: ClassVar[tuple[str, ...]] = SPLITS

    class Config(HumanEvalSection):
        """Settings of the source."""

    def examples(self, split: str) -> Iterator[Example]:
        """Yield one example per problem, in the order of the file."""
        require_split("humaneval", split, SPLITS)
        hub = HUB_ID if self.config.hub else None
        seen: set[str] = set()
        for where, record in read_records(self.config.path, hub, how=_HOW):
            tests = (
                f"{field_of(record, 'test', str, where, _HOW)}\n{check_call(record, where, _HOW)}"
            )
            example = function_example(record, where, _HOW, tests=tests, source="humaneval")
            require_new(example.task_id, seen, where)
            yield example


def check_call(record: dict[str, Any], where: str, how: str) -> str:
    """Return the line that runs the `check` of a problem's tests on the function asked for."""
    name = field_of(record, "entry_point", str, where, how)
    if not name.isidentifier():
        raise DataError(
            f"{where}: entry_point must be the name of a function, found {name!r}. {how}"
        )
    return f"check({name})\n"


def function_example(
    record: dict[str, Any], where: str, how: str, *, tests: str, source: str
) -> Example:
    """Return the example of a problem whose prompt is the beginning of the program.

    Prompts 10, 32, 38 and 50 hold a helper function before the one asked for, so all of the prompt
    stands before the completion. White space at the end of the solution goes.
    """
    prompt = field_of(record, "prompt", str, where, how)
    return Example(
        task_id=field_of(record, "task_id", str, where, how),
        prompt=prompt,
        completion=field_of(record, "canonical_solution", str, where, how).rstrip(),
        reward=1.0,
        tests=tests,
        code_prefix=prompt,
        source=source,
        split="test",
    )
