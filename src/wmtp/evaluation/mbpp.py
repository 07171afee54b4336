"""MBPP as a benchmark, zero-shot or few-shot (Austin et al. 2021, arXiv:2108.07732)."""

from __future__ import annotations

from pydantic import Field

from wmtp.data.example import Example
from wmtp.data.sources.mbpp import MbppSection, load
from wmtp.errors import DataError
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.sandbox import Limits, Program


class MbppBenchmark(Benchmark):
    """MBPP's test split: 500 tasks, or the 257 of them in the sanitized file.

    Prompt and stop strings are those of bigcode-evaluation-harness, so that scores compare: a
    docstring with the text and the first test. `\\ndef` is no stop string, because solutions may
    have helper functions; text after the solution that is not a class, condition, print, assert or
    docstring is therefore run as well. They cut one reference, that of task 342 (`\\nclass`).
    """

    class Config(MbppSection):
        """Settings of the benchmark."""

        num_shots: int = Field(
            0, ge=0, le=9, description="Solved problems in the prompt, from task 2 on."
        )

    stop = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")
    max_new_tokens = 512
    also_known_as = (("Mbpp/", "mbpp/"),)
    # The reference of task 123 computes for about 11 seconds.
    limits = Limits(cpu_seconds=30.0, wall_seconds=60.0)

    def tasks(self) -> list[Task]:
        """Return the test problems by task number."""
        shown = "".join(f"{shot.prompt}{shot.completion.rstrip()}\n\n" for shot in self._shots())
        return [
            Task(
                task_id=example.task_id,
                prompt=shown + example.prompt,
                tests=example.tests or "",
                reference=example.completion,
            )
            for example in load(self.config, "test")
        ]

    def _shots(self) -> list[Example]:
        """Return the first of the authors' examples for prompts, tasks 2, 3, 4 (their section 3.1) on."""
        number = self.config.num_shots
        if not number:
            return []
        found = [e for e in load(self.config, "prompt") if e.task_id != "mbpp/1"][:number]
        if len(found) < number:
            raise DataError(
                f"{self.config.path or 'mbpp'}: {len(found)} problems for the prompt (task_id 2 to 10), "
                f"num_shots is {number}. Use the full file, or show fewer."
            )
        return found

    def program(self, task: Task, completion: str) -> Program:
        """Return the completion as the whole program: the prompt is only a docstring."""
        return Program(task.code_prefix + completion, task.tests, self.limits)
