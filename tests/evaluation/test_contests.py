"""Benchmarks of whole programs: CodeContests in the published schema, and real pairs of ConDefects."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wmtp.errors import DataError
from wmtp.evaluation.codecontests import CodeContestsBenchmark
from wmtp.evaluation.condefects import ConDefectsBenchmark
from wmtp.evaluation.contests import SEVERAL_ANSWERS, comparison, note
from wmtp.evaluation.judge import judge
from wmtp.sandbox import Comparison, Sandbox, probe


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("auto" if probe().tier else "limits-only", workers=2) as sandbox:
        yield sandbox


def cases(*pairs: tuple[str, str]) -> dict[str, list[str]]:
    return {"input": [given for given, _ in pairs], "output": [wanted for _, wanted in pairs]}


def problem(name: str, description: str, tests: dict[str, Any], *right: str) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "public_tests": tests,
        "generated_tests": cases(),
        "source": 2,
        "difficulty": 7,
        "solutions": {"language": [3] * len(right), "solution": list(right)},
        "incorrect_solutions": {"language": [], "solution": []},
        "cf_rating": 900,
        "time_limit": {"seconds": 0, "nanos": 400_000_000},
    }


SUM = problem(
    "1_A. Sum",
    "Add.",
    cases(("1 2\n", "3\n"), ("5 5\n", "10\n")),
    "print(sum(map(int,input().split())))",
)
PARITY = problem(
    "2_A. Parity",
    "Is it even? You can print each letter in any case (upper or lower).",
    cases(("2\n", "YES\n"), ("3\n", "NO\n")),
    "print('No' if int(input()) % 2 else 'yes')",
)
ROOT = problem(
    "3_B. Root",
    "The answer is right when its absolute or relative error is below 1e-6.",
    cases(("2\n", "1.4142135624\n"), ("4\n", "2\n")),
    "print(float(input()) ** 0.5)",
)
PAIR = problem(
    "4_C. Pair",
    "Two numbers with the sum n. If there are multiple answers, print any of them.",
    cases(("3\n", "1 2\n")),
    "print(2, 1)",
)
FILES = {**SUM, "name": "5_A. Files", "input_file": "in.txt"}
UNTESTED = {**SUM, "name": "6_A. Untested", "public_tests": cases()}


def benchmark(folder: Path, *records: dict[str, Any], **settings: Any) -> CodeContestsBenchmark:
    path = folder / "test-00000.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return CodeContestsBenchmark(CodeContestsBenchmark.Config(path=str(path), **settings))


def outcomes(sandbox: Sandbox, benchmark: Any, *answers: tuple[str, str]) -> list[str]:
    samples = [{"task_id": task, "completion": code} for task, code in answers]
    return [o["outcome"] for o in judge(samples, benchmark, sandbox=sandbox)]


def test_tasks_have_rules_and_limits_of_their_problem(tmp_path: Path) -> None:
    found = benchmark(tmp_path, SUM, PARITY, ROOT, PAIR, FILES, UNTESTED)
    tasks = found.tasks()
    assert [task.task_id for task in tasks] == [
        f"codecontests/codeforces/{p['name']}" for p in (SUM, PARITY, ROOT, PAIR)
    ]
    assert found.notices == [
        "codecontests: left out 1 problems with files in place of standard input and output, "
        "1 problems without tests"
    ]
    assert [task.comparison for task in tasks] == [
        Comparison(),
        Comparison(ignore_case=True),
        Comparison(tolerance=1e-6),
        Comparison(),
    ]
    assert [task.note for task in tasks] == ["", "", "", SEVERAL_ANSWERS]
    first = tasks[0]
    assert (first.prompt, first.difficulty) == ('"""\nAdd.\n"""\n', 900.0)
    program = found.program(first, "code")
    assert program.limits.cpu_seconds == 2.0
    assert program.limits.wall_seconds == 8.0
    assert program.total_cpu_seconds == 20.0
    assert program.limits.output_bytes == 6 + (64 << 10)
    assert program.cases == (("1 2\n", "3\n"), ("5 5\n", "10\n"))


def test_programs_are_judged_by_what_they_write(sandbox: Sandbox, tmp_path: Path) -> None:
    found = benchmark(tmp_path, SUM, PARITY, ROOT, PAIR)
    tasks = found.tasks()
    references = [(task.task_id, task.reference or "") for task in tasks]
    # The last one is right, and another answer than that of the tests: noted, not decided.
    assert outcomes(sandbox, found, *references) == ["passed", "passed", "passed", "failed"]
    names = [task.task_id for task in tasks]
    wrong = [
        (names[0], "print(3)"),
        (names[0], ""),
        (names[0], "while True: pass"),
        (names[0], "```python\nprint(sum(map(int, input().split())))\n```"),
        (names[1], "print('yes')"),
        (names[2], "print(round(float(input()) ** 0.5, 3))"),
    ]
    assert outcomes(sandbox, found, *wrong) == [
        *("failed", "failed", "timeout", "passed", "failed", "failed")
    ]
    strict = benchmark(tmp_path, ROOT, float_tolerance=None)
    assert outcomes(sandbox, strict, references[2]) == ["failed"]


def test_the_first_test_that_fails_is_named(sandbox: Sandbox, tmp_path: Path) -> None:
    found = benchmark(tmp_path, SUM)
    samples = [{"task_id": found.tasks()[0].task_id, "completion": "print(3)"}]
    [outcome] = judge(samples, found, sandbox=sandbox)
    assert outcome["detail"] == "test 2 of 2: word 1 is '3', expected '10'"


@pytest.mark.parametrize(
    ("text", "ignores", "several"),
    [
        ("Print YES or NO.", False, False),
        ('Print "Yes" (you may print every letter in any case you want).', True, False),
        ("The answer is case-insensitive.", True, False),
        ("If there are several possible answers, you may print any.", False, True),
        ("Print any valid sequence; any of them is accepted.", False, True),
        ("You can print the numbers in any order.", False, True),
        ("Find the number of ways. If it is large, print it modulo 7.", False, False),
        ("Print the answer for any number of queries.", False, False),
        ("Choose any i. The numbers stand in arbitrary order.", False, False),
    ],
)
def test_what_a_statement_says_about_answers(text: str, ignores: bool, several: bool) -> None:
    config = CodeContestsBenchmark.Config()
    assert comparison(config, (("", "YES"),), text).ignore_case == ignores
    assert bool(note(text)) == several


def test_real_statements_are_read(shared_data: Path) -> None:
    """The 165 statements of the test split, those with several answers counted by reading them."""
    path = shared_data / "codecontests_schema" / "codecontests_test_prompts_codet.jsonl"
    texts = [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
    config = CodeContestsBenchmark.Config()
    assert len(texts) == 165
    assert sum(bool(note(text)) for text in texts) == 36
    assert sum(comparison(config, (("", "YES"),), text).ignore_case for text in texts) == 12


# ---- ConDefects ---------------------------------------------------------------------------------

# Tests written for these tasks by their meaning: the authors' are not published with the programs.
ATCODER = {
    "abc254_a": [("254\n", "54\n"), ("101\n", "01\n")],
    "abc283_a": [("4 3\n", "64\n"), ("5 5\n", "3125\n")],
    "abc283_c": [("40004\n", "4\n"), ("1355506027\n", "10\n")],
    "abc271_a": [("99\n", "63\n"), ("12\n", "0C\n")],
    "abc333_a": [("3\n", "333\n"), ("9\n", "999999999\n")],
    "abc325_a": [("Takahashi Chokudai\n", "Takahashi san\n")],
}
PROGRAMS = (*("45547154", "45462198", "45014818", "44590701"), "45782471", "54873390", "54463664")


def test_corrected_programs_pass_and_faulty_ones_fail(
    sandbox: Sandbox, shared_data: Path, tmp_path: Path
) -> None:
    path = shared_data / "condefects" / "condefects_dev.jsonl.gz"
    for name, tests in ATCODER.items():
        contest, _, letter = name.partition("_")
        for number, pair in enumerate(tests):
            for kind, text in zip(("in", "out"), pair, strict=True):
                file = tmp_path / contest / letter.upper() / kind / f"{number}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
    found = ConDefectsBenchmark(ConDefectsBenchmark.Config(path=str(path), tests=str(tmp_path)))
    assert {task.task_id for task in found.tasks()} == {f"condefects/{name}" for name in ATCODER}
    assert found.notices[0].endswith("tasks without tests")
    with gzip.open(path, "rt") as file:
        records = [json.loads(line) for line in file]
    pairs = [r for r in records if r["program_id"] in PROGRAMS]
    assert len(pairs) == len(PROGRAMS)
    for field, outcome in (("correct", "passed"), ("incorrect", "failed")):
        answers = [(f"condefects/{r['task_id']}", r[field]) for r in pairs]
        assert outcomes(sandbox, found, *answers) == [outcome] * len(pairs)


def test_condefects_without_tests_says_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"task_id": "abc001_a", "correct": "x", "incorrect": "y"}\n')
    with pytest.raises(DataError, match=r"the setting tests is missing.*Test\.zip"):
        ConDefectsBenchmark(ConDefectsBenchmark.Config(path=str(path))).tasks()
    with pytest.raises(DataError, match="no test of any task"):
        ConDefectsBenchmark(ConDefectsBenchmark.Config(path=str(path), tests=str(tmp_path))).tasks()
    (tmp_path / "abc001" / "A" / "in").mkdir(parents=True)
    (tmp_path / "abc001" / "A" / "in" / "1").write_text("x")
    with pytest.raises(DataError, match="a test cannot be read"):
        ConDefectsBenchmark(ConDefectsBenchmark.Config(path=str(path), tests=str(tmp_path))).tasks()
