"""GSM8K as a benchmark: exact match of the final answer (Cobbe et al. 2021, arXiv:2110.14168)."""

from __future__ import annotations

from pydantic import Field

from wmtp.data.answers import marked_answer, plain_number
from wmtp.data.sources.gsm8k import Gsm8k
from wmtp.data.sources.worked import WorkedSection
from wmtp.evaluation.answers import FinalAnswer
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.evaluation.worked import Wording, worked_tasks


class Gsm8kBenchmark(Benchmark):
    """GSM8K's 1,319 test problems. A completion is right when its final answer is the same number.

    The prompt shows the first `num_shots` problems of the training split with their published
    solutions; without any it is that of training.
    """

    class Config(WorkedSection):
        """Settings of the benchmark."""

        num_shots: int = Field(8, ge=0, description="Worked training problems in the prompt.")

    stop = ("\nQuestion:",)
    max_new_tokens = 512
    extraction = "raw"
    compares_answers = True

    def tasks(self) -> list[Task]:
        """Return the test problems in the order of the file."""
        return worked_tasks(
            Gsm8k(self.config), self.config.num_shots, Wording("Question: ", "Answer: ")
        )

    def program(self, task: Task, completion: str) -> FinalAnswer:
        """Return the answer of the completion with that of the published solution."""
        expected = marked_answer(task.reference or "")
        assert expected is not None  # the source has looked
        return FinalAnswer(number_after_mark(completion), expected)


def number_after_mark(completion: str) -> str | None:
    """Return the answer on the line of the first `####`, or None; words after a number do not count.

    What a model writes after its answer, such as another problem, has no say.
    """
    _, mark, rest = completion.partition("####")
    line = rest.strip(" \t").partition("\n")[0].strip()
    if not mark or not line:
        return None
    return plain_number(line) or plain_number(line.split()[0]) or line
