"""HumanEval as a benchmark, zero-shot (Chen et al. 2021, arXiv:2107.03374)."""

from __future__ import annotations

from wmtp.data.sources.humaneval import HumanEval, HumanEvalSection
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.evaluation.published import function_program, function_tasks
from wmtp.sandbox import Limits, Program

# Of the paper, section 3.2.
STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


class HumanEvalBenchmark(Benchmark):
    """HumanEval's 164 tasks. The prompt is the beginning of the program, as published.

    Stop strings are those of the paper; the bound of 512 tokens is that of bigcode-evaluation-harness.
    The official harness gives a program 3 s of wall time; here it has 5 s of CPU time and 8 s of wall
    time, with a second try on its own where it was the machine that was slow.
    """

    class Config(HumanEvalSection):
        """Settings of the benchmark."""

    stop = STOP
    max_new_tokens = 512
    limits = Limits(cpu_seconds=5.0, wall_seconds=8.0)

    def tasks(self) -> list[Task]:
        """Return the problems in the order of the file."""
        return function_tasks(HumanEval(self.config).examples("test"))

    def program(self, task: Task, completion: str) -> Program:
        """Return prompt and completion with the task's tests."""
        return function_program(task, completion, self.limits)
