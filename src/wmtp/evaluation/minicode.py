"""The embedded benchmark: held-out compositions of minicode."""

from __future__ import annotations

from wmtp.data.sources.minicode.grammar import ProblemSection, iterate_problems, solutions
from wmtp.data.sources.minicode.verification import program
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.sandbox import Program


class MinicodeBenchmark(Benchmark):
    """The problems of minicode's test split, asked as in training; answers are function bodies.

    No composition in it is ever in the split `train` or `validation`, under any settings.
    """

    class Config(ProblemSection):
        """Settings of the benchmark: which problems are generated; a tenth of them is the test."""

    stop = ("\n#", "\ndef ", "\nclass ", "\nif ", "\nprint", "\nassert", "\n@", '\n"""')
    max_new_tokens = 160

    def __init__(self, config: MinicodeBenchmark.Config) -> None:
        super().__init__(config)
        if config.levels is not None:
            self.max_new_tokens = 512  # interpreters take more words than pipelines

    def tasks(self) -> list[Task]:
        """Return the test problems, easier ones first."""
        return [
            Task(
                task_id=problem.task_id,
                prompt=problem.prompt,
                tests=problem.tests,
                code_prefix=problem.prompt,
                reference=solutions(problem, 1)[0],
                difficulty=float(problem.level),
            )
            for problem in iterate_problems(self.config)
            if problem.split == "test"
        ]

    def program(self, task: Task, completion: str) -> Program:
        """Return the function with its tests."""
        return program(task.code_prefix, completion, task.tests)
