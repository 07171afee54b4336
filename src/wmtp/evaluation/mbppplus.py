"""MBPP+ as a benchmark: problems of MBPP, mended, with more tests (Liu et al., arXiv:2305.01210)."""

from __future__ import annotations

from wmtp.data.sources.mbppplus import MbppPlus
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.evaluation.published import function_program, function_tasks
from wmtp.sandbox import Limits, Program

LIMITS = Limits(cpu_seconds=20.0, wall_seconds=120.0)
SLOW = {"mbppplus/599": Limits(cpu_seconds=120.0, wall_seconds=360.0)}


class MbppPlusBenchmark(Benchmark):
    """MBPP+'s 378 tasks. The prompt is evalplus's docstring: the text and one assert.

    Stop strings are those of `mbpp`. All tests of a task have 20 s of CPU time; task 599, whose
    reference computes for 17 to 40 s, has 120 s. Five inputs of task 255 are left out of evalplus's
    file: their answers, of up to a gigabyte, are too large to be handed to the tests.
    """

    class Config(MbppPlus.Config):
        """Settings of the benchmark."""

    stop = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")
    max_new_tokens = 512
    also_known_as = (("Mbpp/", "mbppplus/"),)

    def tasks(self) -> list[Task]:
        """Return the problems in the order of the file."""
        return function_tasks(MbppPlus(self.config).examples("test"), SLOW)

    def program(self, task: Task, completion: str) -> Program:
        """Return the completion as the whole program: the prompt is only a docstring."""
        return function_program(task, completion, LIMITS)
