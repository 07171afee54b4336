"""CodeContests as a benchmark (Li et al. 2022, arXiv:2203.07814)."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field

from wmtp.data.sources.codecontests.schema import ContestProblem
from wmtp.data.sources.codecontests.source import PROMPTS, CodeContests
from wmtp.data.sources.fields import told
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.evaluation.contests import ContestSection, comparison, contest_program, limits, note
from wmtp.sandbox import StdioProgram

TIME_LIMIT_SECONDS = 3.0  # of problems that name none


class CodeContestsBenchmark(Benchmark):
    """One task per problem: a Python program, judged by its output on the tests.

    The prompt is the statement as a docstring, as in training; the authors publish none for Python.
    A problem without a statement or tests, or with files in place of the standard streams, is left
    out and counted.
    """

    class Config(ContestSection):
        """Settings of the benchmark."""

        path: str | None = Field(
            None,
            description="File, folder or pattern; the names of the files hold train, valid or test.",
        )
        hub: bool = Field(False, description="Stream it from the hub through `datasets` instead.")
        split: Literal["train", "valid", "test"] = Field("test", description="Of the authors.")
        tests: tuple[Literal["public", "private", "generated"], ...] = Field(
            ("public", "private", "generated"),
            min_length=1,
            strict=False,
            description="Which tests decide.",
        )

    stop = ('\n"""', "\n```")
    max_new_tokens = 1024

    def tasks(self) -> list[Task]:
        """Return the problems in the order of the files."""
        source = CodeContests(CodeContests.Config(path=self.config.path, hub=self.config.hub))
        left_out: Counter[str] = Counter()
        found = []
        for problem in source.problems(self.config.split):
            tests = tuple(test for name in self.config.tests for test in problem.tests[name])
            if reason := _unusable(problem, tests):
                left_out[reason] += 1
            else:
                found.append(self._task(problem, tests))
        words = told(left_out)
        self.notices = [f"codecontests: left out {words}"] if words else []
        return found

    def _task(self, problem: ContestProblem, tests: tuple[tuple[str, str], ...]) -> Task:
        seconds = problem.time_limit_seconds or TIME_LIMIT_SECONDS
        python = (text for language, text in problem.solutions if language == "python3")
        return Task(
            task_id=problem.task_id,
            prompt=PROMPTS["python3"].format(problem.description),
            reference=next(python, None),
            difficulty=problem.rating,
            io_tests=tests,
            comparison=comparison(self.config, tests, problem.description),
            limits=limits(seconds, self.config.time_factor, tests),
            note=note(problem.description),
        )

    def program(self, task: Task, completion: str) -> StdioProgram:
        """Return the completion as the whole program."""
        return contest_program(task, completion)


def _unusable(problem: ContestProblem, tests: tuple[tuple[str, str], ...]) -> str:
    if not problem.description:
        return "problems without a statement"
    if problem.uses_files:
        return "problems with files in place of standard input and output"
    return "" if tests else "problems without tests"
