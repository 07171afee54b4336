"""What benchmarks of worked solutions share: few-shot prompts from the training split."""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

from wmtp.data.example import Example
from wmtp.data.sources.base import Source
from wmtp.errors import DataError
from wmtp.evaluation.benchmark import Task


class Wording(NamedTuple):
    """What comes before a problem and before its solution in a few-shot prompt."""

    problem: str
    solution: str

    def prompt(self, example: Example) -> str:
        """Return the problem up to where its solution begins."""
        return f"{self.problem}{example.prompt.strip()}\n{self.solution}"


def worked_tasks(source: Source[Any], num_shots: int, wording: Wording) -> list[Task]:
    """Return the test problems of `source`, after `num_shots` worked training problems in the prompt."""
    shown = "".join(
        f"{wording.prompt(example)}{example.completion}\n\n"
        for example in _shots(source, num_shots)
    )
    return [
        Task(
            task_id=example.task_id,
            prompt=shown + wording.prompt(example).rstrip() if num_shots else example.prompt,
            tests="",
            reference=example.completion,
            difficulty=example.difficulty,
        )
        for example in source.examples("test")
    ]


def _shots(source: Source[Any], num_shots: int) -> list[Example]:
    if not num_shots:
        return []
    try:
        return list(islice(source.examples("train"), num_shots))
    except DataError as error:
        raise DataError(
            f"{error} The prompt shows {num_shots} problems of the training split; num_shots=0 asks for "
            "one that shows none, as to judge samples that are drawn already."
        ) from error
