"""QuixBugs as a judged set: programs that are right, and the same with a bug (Lin et al. 2017)."""

from __future__ import annotations

from wmtp.data.sources.quixbugs import QuixBugs
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.evaluation.published import function_program, function_tasks
from wmtp.sandbox import Limits, Program


class QuixBugsBenchmark(Benchmark):
    """One task per program, asked for by its description; the completion is the whole program.

    Made for repair: the samples are programs, mended or not. There is no published prompt or stop
    string; generation stops where Python's next top-level text is no part of a program.
    """

    class Config(QuixBugs.Config):
        """Settings of the benchmark."""

    stop = ("\nassert", '\n"""', "\nprint", "\nif", "\n```")
    max_new_tokens = 512
    limits = Limits(cpu_seconds=5.0, wall_seconds=15.0)

    def tasks(self) -> list[Task]:
        """Return the programs in the order of the file."""
        return function_tasks(QuixBugs(self.config).examples("test"))

    def program(self, task: Task, completion: str) -> Program:
        """Return the completion as the whole program."""
        return function_program(task, completion, self.limits)
