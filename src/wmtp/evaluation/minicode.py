"""The embedded benchmark: held-out compositions of minicode."""

from __future__ import annotations

from wmtp.data.sources.minicode.rendering import solutions
from wmtp.data.sources.minicode.source import LIMITS, ProblemSection, make_problems, task_id
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.sandbox import Program


class MinicodeBenchmark(Benchmark):
    """The problems of minicode's test split, asked as in training; answers are function bodies.

    No composition of operations and constants in it is ever in the split `train` or `validation`,
    under any settings.
    """

    class Config(ProblemSection):
        """Settings of the benchmark: which problems are generated; a tenth of them is the test."""

    stop = ("\n#", "\ndef ", "\nclass ", "\nif ", "\nprint", "\nassert", "\n@", '\n"""')
    max_new_tokens = 160

    def tasks(self) -> list[Task]:
        """Return the test problems, easier ones first."""
        return [
            Task(
                task_id=task_id(problem),
                prompt=problem.prompt,
                tests=problem.tests,
                code_prefix=problem.prompt,
                reference=solutions(problem, 1)[0],
                difficulty=float(problem.level),
            )
            for problem in make_problems(self.config)
            if problem.split == "test"
        ]

    def program(self, task: Task, completion: str) -> Program:
        """Return the function with its tests."""
        return Program(task.code_prefix + completion, task.tests, LIMITS)
