r"""MATH as a benchmark: equivalence of the final answer (Hendrycks et al. 2021, arXiv:2103.03874)."""

from __future__ import annotations

from pydantic import Field

from wmtp.data.answers import boxed_answer
from wmtp.data.sources.math import Math
from wmtp.data.sources.worked import WorkedSection
from wmtp.evaluation.answers import FinalAnswer
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.evaluation.worked import Wording, worked_tasks


class MathBenchmark(Benchmark):
    r"""MATH's test problems, such as the 500 of MATH-500, by the answer in the last `\boxed{}`.

    Answers are equal as texts or for math-verify, which knows 0.5 and \frac{1}{2} as one. The prompt
    shows the first `num_shots` problems of the training split with their published solutions; without
    any it is that of training.
    """

    class Config(WorkedSection):
        """Settings of the benchmark."""

        num_shots: int = Field(4, ge=0, description="Worked training problems in the prompt.")

    stop = ("\nProblem:",)
    max_new_tokens = 1024
    extraction = "raw"
    compares_answers = True

    def tasks(self) -> list[Task]:
        """Return the test problems in the order of the file."""
        return worked_tasks(
            Math(self.config), self.config.num_shots, Wording("Problem: ", "Solution: ")
        )

    def program(self, task: Task, completion: str) -> FinalAnswer:
        """Return the answer of the completion with that of the published solution."""
        expected = boxed_answer(task.reference or "")
        assert expected is not None  # the source has looked
        return FinalAnswer(boxed_answer(completion), expected, symbolic=True)
