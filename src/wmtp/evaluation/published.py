"""From the examples of a published data set to the tasks of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable

from wmtp.data.example import Example
from wmtp.evaluation.benchmark import Task
from wmtp.sandbox import Limits, Program


def function_tasks(
    examples: Iterable[Example], limits: dict[str, Limits] | None = None
) -> list[Task]:
    """Return a task for each correct example, asked for by its prompt and decided by its tests.

    limits: by task id, for tasks that need others than the benchmark's.
    """
    return [
        Task(
            task_id=example.task_id,
            prompt=example.prompt,
            tests=example.tests or "",
            code_prefix=example.code_prefix,
            reference=example.completion,
            difficulty=example.difficulty,
            limits=(limits or {}).get(example.task_id),
        )
        for example in examples
        if example.is_correct
    ]


def function_program(task: Task, completion: str, limits: Limits) -> Program:
    """Return the completion after what stands before it, with the task's tests."""
    return Program(task.code_prefix + completion, task.tests, task.limits or limits)
