"""Refactory: students' right and wrong programs for five exercises (Hu et al. 2019, ASE)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from wmtp.config.section import Section
from wmtp.data.example import Example
from wmtp.data.records import field_of, read_records
from wmtp.data.sources.base import Source, require_new
from wmtp.data.sources.fields import code_of, told, with_lf
from wmtp.data.splits import hashed_split, require_split
from wmtp.errors import DataError, SandboxError
from wmtp.sandbox import Limits, Program, Sandbox

SPLITS = ("train", "validation", "test")
LABELS = {"correct": 1.0, "wrong": 0.0}
# All right programs need far less; the loops without end are what takes time.
LIMITS = Limits(cpu_seconds=1.0, wall_seconds=20.0, memory_bytes=256 << 20)
_HOW = (
    "Put data.zip of github.com/githubhuyang/refactory into records: one per exercise {task_id, "
    "description, global_code, tests: [{expression, expected}]} (problems), one per program "
    "{task_id, label, code} (path)."
)


class Refactory(Source):
    """Programs of an introductory course with their tests; reward 1 or 0.

    Some labels do not agree with the tests (61 of 4,225: the course forbade what they use), so by
    default the tests are run and decide.
    """

    licence: ClassVar[str] = "LGPL-3.0 (the repository's; none is named for the data)"

    class Config(Section):
        """Settings of the source."""

        path: str | None = Field(None, description="File with one record per program.")
        problems: str | None = Field(None, description="File with one record per exercise.")
        trust: Literal["tests", "labels"] = Field(
            "tests", description="What decides the reward; `tests` runs every program, isolated."
        )
        validation_share: float = Field(0.05, ge=0, lt=0.5, description="Share of the programs.")
        test_share: float = Field(0.05, ge=0, lt=0.5, description="Share of the programs.")

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the different programs of one split in the order of the file.

        The split is set by the hash of the program, so that copies of it stay together; the
        exercises are the same in all splits.
        """
        require_split("refactory", split, SPLITS)
        found = self._labelled(split)
        if not found:
            raise DataError(
                f"{self.config.path}: no example in split {split!r}. Give a file with more "
                "programs or change the shares of the splits."
            )
        yield from self._tested(found, split) if self.config.trust == "tests" else found

    def _labelled(self, split: str) -> list[Example]:
        """Return the different programs of one split with the reward of their label."""
        if self.config.problems is None:
            raise DataError(f"refactory: problems is not set. {_HOW}")
        problems: dict[str, Example] = {}
        seen: set[str] = set()
        for where, record in read_records(self.config.problems, None, how=_HOW):
            task = field_of(record, "task_id", str, where, _HOW)
            require_new(task, seen, where)
            problems[task] = _problem(record, where, split)
        shares = {"test": self.config.test_share, "validation": self.config.validation_share}
        found: dict[tuple[str, str], Example] = {}
        repeated = 0
        for where, record in read_records(self.config.path, None, how=_HOW):
            code = code_of(record, "code", where, _HOW)
            if hashed_split(code, **shares) != split:
                continue
            task, label = (
                field_of(record, name, str, where, _HOW) for name in ("task_id", "label")
            )
            if task not in problems or label not in LABELS:
                raise DataError(
                    f"{where}: task_id {task!r}, label {label!r}. Expected one of "
                    f"{', '.join(problems)} (in {self.config.problems}) and correct or wrong. {_HOW}"
                )
            repeated += (task, code) in found
            example = replace(problems[task], completion=code, reward=LABELS[label])
            found.setdefault((task, code), example)
        if repeated:
            self.notices.append(f"refactory, split {split}: left out {repeated} repeated programs")
        return list(found.values())

    def _tested(self, examples: list[Example], split: str) -> list[Example]:
        """Return the examples with the reward that their tests give."""
        programs = [Program(e.code_prefix + e.completion, e.tests or "", LIMITS) for e in examples]
        with Sandbox() as sandbox:
            verdicts = dict(sandbox.judge(programs))
        tested = []
        disagreements: Counter[str] = Counter()
        for index, example in enumerate(examples):
            verdict = verdicts[index]
            if verdict.outcome == "error":
                raise SandboxError(f"{example.task_id}: the tests cannot be run: {verdict.detail}")
            reward = float(verdict.outcome == "passed")
            if reward != example.reward:
                label = "correct" if example.reward else "wrong"
                disagreements[f"labelled {label} {'pass' if reward else 'fail'}"] += 1
            tested.append(replace(example, reward=reward))
        if disagreements:
            self.notices.append(
                f"refactory, split {split}: the tests overrule {disagreements.total()} labels of "
                f"{len(examples)} ({told(disagreements)})"
            )
        return tested


def _problem(record: dict[str, Any], where: str, split: str) -> Example:
    """Return an example that lacks its completion.

    The prompt is a docstring with the description and the first test, then code that is given.
    """
    task = field_of(record, "task_id", str, where, _HOW)
    given = code_of(record, "global_code", where, _HOW)
    given += "\n" if given else ""
    asserts = []
    for test in field_of(record, "tests", list, where, _HOW):
        if not isinstance(test, dict):
            raise DataError(f"{where}: a test must be an object, found {test!r:.200}. {_HOW}")
        parts = [code_of(test, name, where, _HOW) for name in ("expression", "expected")]
        asserts.append("assert {} == {}\n".format(*parts))
    if not asserts:
        raise DataError(f"{where}: there are no tests. {_HOW}")
    description = with_lf(field_of(record, "description", str, where, _HOW)).strip()
    return Example(
        task_id=f"refactory/{task.removeprefix('Refactory/')}",
        prompt=f'"""\n{description}\n{asserts[0]}"""\n{given}',
        completion="",
        tests="".join(asserts),
        code_prefix=given,
        source="refactory",
        split=split,
    )
