"""ConDefects as a judged set: AtCoder programs, faulty and corrected (Wu et al. 2023)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from wmtp.data.records import field_of, read_records
from wmtp.errors import DataError
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.evaluation.contests import ContestSection, comparison, contest_program, limits
from wmtp.sandbox import StdioProgram

# AtCoder's usual limit; the records have none.
TIME_LIMIT_SECONDS = 2.0
_HOW = (
    "Put the Python pairs of github.com/appmlk/ConDefects into records {task_id, correct, incorrect} "
    "and set path; unpack its Test.zip and set tests to the folder Test."
)


class ConDefectsBenchmark(Benchmark):
    """One task per AtCoder task for which there are tests; made for repair.

    The records have no statements, so the prompt names the task alone. The tests are published apart
    from them, as `Test/abc221/F/in/NAME` and `Test/abc221/F/out/NAME`; tasks without are left out
    and counted.
    """

    class Config(ContestSection):
        """Settings of the benchmark."""

        path: str | None = Field(None, description="File with one record per pair.")
        tests: str | None = Field(None, description="The folder Test of the authors' Test.zip.")

    stop = ('\n"""', "\n```")
    max_new_tokens = 1024

    def tasks(self) -> list[Task]:
        """Return the tasks by their first place in the file."""
        if self.config.tests is None:
            raise DataError(f"condefects: the setting tests is missing. {_HOW}")
        references: dict[str, str] = {}
        for where, record in read_records(self.config.path, None, how=_HOW):
            name = field_of(record, "task_id", str, where, _HOW)
            references.setdefault(name, field_of(record, "correct", str, where, _HOW))
        found = [self._task(name, code) for name, code in references.items()]
        tasks = [task for task in found if task is not None]
        if not tasks:
            raise DataError(f"{self.config.tests}: no test of any task in the records. {_HOW}")
        if len(tasks) < len(found):
            self.notices = [f"condefects: left out {len(found) - len(tasks)} tasks without tests"]
        return tasks

    def _task(self, name: str, reference: str) -> Task | None:
        contest, _, letter = name.partition("_")
        folder = Path(str(self.config.tests)) / contest / letter.upper()
        tests = _tests(folder)
        if not tests:
            return None
        return Task(
            task_id=f"condefects/{name}",
            prompt=f"# AtCoder task {name}. Reads standard input, writes standard output.\n",
            reference=reference,
            io_tests=tests,
            comparison=comparison(self.config, tests, ""),
            limits=limits(TIME_LIMIT_SECONDS, self.config.time_factor, tests),
        )

    def program(self, task: Task, completion: str) -> StdioProgram:
        """Return the completion as the whole program."""
        return contest_program(task, completion)


def _tests(folder: Path) -> tuple[tuple[str, str], ...]:
    """Return the pairs in `folder`, by name; an input without an output is a `DataError`."""
    if not (folder / "in").is_dir():
        return ()
    try:
        return tuple(
            (file.read_text(encoding="utf-8"), (folder / "out" / file.name).read_text("utf-8"))
            for file in sorted((folder / "in").iterdir())
        )
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder}: a test cannot be read ({error}). {_HOW}") from error
