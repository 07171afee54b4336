"""CodeContests (Li et al. 2022, arXiv:2203.07814): tens of GB, read one problem at a time."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from glob import glob
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from wmtp.config.section import Section
from wmtp.data.example import Example, require_text
from wmtp.data.records import read_records
from wmtp.data.sources.base import Source, digest
from wmtp.data.sources.codecontests.schema import (
    HOW,
    HUB_ID,
    LANGUAGES,
    ContestProblem,
    Pairs,
    contest_problem,
)
from wmtp.data.sources.fields import told
from wmtp.data.splits import require_split
from wmtp.errors import DataError

SPLITS = ("train", "valid", "test")
# A comment with the statement; the language where it does not show.
PROMPTS = {
    "python3": '"""\n{}\n"""\n',
    "python": '"""\n{}\n"""\n# Python 2\n',
    "cpp": "/*\n{}\n*/\n// C++\n",
    "java": "/*\n{}\n*/\n// Java\n",
}


class CodeContests(Source):
    """Programs that were accepted, reward 1, and programs that were not, reward 0."""

    licence: ClassVar[str] = "CC BY 4.0 (parts from Codeforces, AtCoder, Aizu and others: theirs)"
    split_names: ClassVar[tuple[str, ...]] = SPLITS

    class Config(Section):
        """Settings of the source."""

        path: str | None = Field(
            None,
            description="File, folder or pattern; the names of the files hold train, valid or test.",
        )
        hub: bool = Field(False, description=f"Stream {HUB_ID} through `datasets` instead.")
        languages: tuple[Literal["python3", "python", "cpp", "java"], ...] = Field(
            ("python3",), min_length=1, strict=False, description="python is Python 2."
        )
        solutions_per_problem: int = Field(2, ge=0, description="Correct programs, at most.")
        incorrect_per_problem: int = Field(2, ge=0, description="Incorrect programs, at most.")
        max_solution_chars: int = Field(
            10_000, gt=0, description="Longer programs are left out before the others are drawn."
        )
        difficulty: Literal["rating", "grade"] = Field(
            "rating",
            description="rating (cf_rating): Codeforces' own, 800 to 3500. grade (difficulty): each "
            "site's, 1 (easy) to 5 or 7 (A) to 29 (V). Problems that lack it have none.",
        )
        only_with_difficulty: bool = Field(
            False, description="Leave out the problems that lack it, as a curriculum needs."
        )
        tests: tuple[Literal["public", "private", "generated"], ...] = Field(
            ("public", "private"), strict=False, description="Which tests the examples carry."
        )
        max_test_chars: int = Field(
            20_000, ge=0, description="Tests of a problem that go beyond it are left out."
        )
        seed: int = Field(0, ge=0, description="Draws the programs of each problem.")

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the examples of one split by problem, correct before incorrect.

        Left out and counted are repeated problems and those without a description, empty and repeated
        programs, incorrect ones whose text is among the correct ones, and what goes beyond the
        settings' limits.
        """
        require_split("codecontests", split, SPLITS)
        left_out: Counter[str] = Counter()
        seen: set[bytes] = set()
        number = 0
        try:
            for where, record in self._records(split):
                problem = contest_problem(record, where)
                require_text(problem.task_id, f"{where}: name: ")
                if (identity := digest(problem.task_id)) in seen:
                    left_out["problems whose name was there already"] += 1
                    continue
                seen.add(identity)
                for example in self._examples(problem, split, left_out):
                    number += 1
                    yield example
        finally:
            if words := told(left_out):
                self.notices.append(f"codecontests, split {split}: left out {words}")
        if not number:
            raise DataError(
                f"{self.config.path or HUB_ID}: no usable program in split {split!r}. Choose other "
                "files, languages or limits."
            )

    def problems(self, split: str) -> Iterator[ContestProblem]:
        """Yield the problems of one split, whatever their programs."""
        require_split("codecontests", split, SPLITS)
        for where, record in self._records(split):
            yield contest_problem(record, where)

    def _records(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        path, hub = self.config.path, HUB_ID if self.config.hub else None
        if path is None or hub is not None:
            yield from read_records(path, hub, split, how=HOW)
            return
        found = files_of(path, split)
        if not found:
            raise DataError(
                f"{path}: no file whose name says split {split!r}, such as {split}-00000.parquet. "
                f"Check path, or rename the file. {HOW}"
            )
        for file in found:
            yield from read_records(file, None, how=HOW)

    def _examples(
        self, problem: ContestProblem, split: str, left_out: Counter[str]
    ) -> Iterator[Example]:
        """Yield the chosen programs of one problem."""
        config = self.config
        if not problem.description:
            left_out["problems without a description"] += 1
            return
        difficulty = problem.rating if config.difficulty == "rating" else problem.grade
        if difficulty is None and config.only_with_difficulty:
            left_out[f"problems without a {config.difficulty}"] += 1
            return
        correct = self._usable(problem.solutions, left_out)
        incorrect = self._usable(problem.incorrect, left_out)
        for text in correct.keys() & incorrect.keys():
            left_out["incorrect programs that are among the correct ones"] += 1
            del incorrect[text]
        example = Example(
            task_id=problem.task_id,
            prompt="",
            completion="",
            difficulty=difficulty,
            source="codecontests",
            split=split,
            io_tests=self._io_tests(problem, left_out),
            time_limit_seconds=problem.time_limit_seconds,
        )
        for programs, limit, reward in (
            (correct, config.solutions_per_problem, 1.0),
            (incorrect, config.incorrect_per_problem, 0.0),
        ):
            rng = random.Random(f"{config.seed}/{problem.task_id}/{reward}")
            texts = list(programs)
            for index in sorted(rng.sample(range(len(texts)), min(limit, len(texts)))):
                text = texts[index]
                prompt = PROMPTS[programs[text]].format(problem.description)
                yield replace(example, prompt=prompt, completion=text, reward=reward)

    def _usable(self, programs: Pairs, left_out: Counter[str]) -> dict[str, str]:
        """Return the programs to draw from, each with its language."""
        limit = self.config.max_solution_chars
        found: dict[str, str] = {}
        for language, text in programs:
            if language == LANGUAGES[0]:
                left_out["programs in an unknown language"] += 1
            elif language not in self.config.languages:
                continue
            elif not text:
                left_out["empty programs"] += 1
            elif len(text) > limit:
                left_out[f"programs of more than {limit} characters"] += 1
            elif text in found:
                left_out["repeated programs"] += 1
            else:
                found[text] = language
        return found

    def _io_tests(self, problem: ContestProblem, left_out: Counter[str]) -> Pairs:
        """Return the tests that the examples carry."""
        limit = self.config.max_test_chars
        tests = [test for name in self.config.tests for test in problem.tests[name]]
        if problem.uses_files:
            left_out["tests with files in place of standard input and output"] += len(tests)
            return ()
        sizes = accumulate(len(given) + len(wanted) for given, wanted in tests)
        kept = sum(size <= limit for size in sizes)
        left_out[f"tests beyond {limit} characters of their problem"] += len(tests) - kept
        return tuple(tests[:kept])


def files_of(path: str, split: str) -> list[str]:
    """Return the files at `path`, a file, folder or pattern, whose names hold the word `split`."""
    folder = Path(path)
    found = map(str, folder.rglob("*")) if folder.is_dir() else glob(path, recursive=True)
    return [
        file
        for file in sorted(found)
        if split in re.split("[^a-z]+", Path(file).name.lower()) and Path(file).is_file()
    ]
