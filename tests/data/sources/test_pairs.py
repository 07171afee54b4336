"""Sources of right and wrong programs: real data, counts, spans, verdicts of their tests."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from wmtp.data.example import Example
from wmtp.data.sources.condefects import ConDefects
from wmtp.data.sources.quixbugs import QuixBugs
from wmtp.data.sources.refactory import Refactory
from wmtp.errors import DataError
from wmtp.sandbox import Limits, Program, Sandbox, probe


def write(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def sandbox_works() -> None:
    status = probe()
    if status.tier is None:
        pytest.skip("; ".join(status.lines))


# ---- condefects ---------------------------------------------------------------------------------

PAIR = {
    "task_id": "abc300_a",
    "program_id": "1",
    "difficulty": 12.5,
    "fault_location": "2",
    "correct": "n = int(input())\r\nprint(n + 1)\r\n",
    "incorrect": "n = int(input())\r\nprint(n - 1)\r\n",
}


def condefects(path: str, split: str = "train", **settings: Any) -> list[Example]:
    shares = {"validation_share": 0.0, "test_share": 0.0} if split == "train" else {}
    return list(ConDefects(ConDefects.Config(path=path, **(shares | settings))).examples(split))


def test_a_pair_becomes_a_right_and_a_wrong_example(tmp_path: Path) -> None:
    right, wrong = condefects(write(tmp_path / "pairs.jsonl", PAIR))
    shared: dict[str, Any] = {
        "task_id": "condefects/abc300_a",
        "prompt": "# AtCoder task abc300_a. Reads standard input, writes standard output.\n",
        "difficulty": 12.5,
        "source": "condefects",
    }
    assert right == Example(completion="n = int(input())\nprint(n + 1)", reward=1.0, **shared)
    assert wrong == Example(
        completion="n = int(input())\nprint(n - 1)", reward=0.0, fault_spans=((25, 26),), **shared
    )


def test_repeated_and_long_programs_are_left_out_and_counted(tmp_path: Path) -> None:
    other = {**PAIR, "incorrect": "print(0)", "difficulty": "unknown"}
    long = {**PAIR, "correct": "#" * 100}
    source = ConDefects(
        ConDefects.Config(
            path=write(tmp_path / "pairs.jsonl", PAIR, long, other, PAIR),
            max_chars=99,
            validation_share=0.0,
            test_share=0.0,
        )
    )
    examples = list(source.examples("train"))
    assert [(e.reward, e.difficulty) for e in examples] == [(1.0, 12.5), (0.0, 12.5), (0.0, None)]
    assert source.notices == [
        "condefects, split train: left out 3 repeated programs, 1 pairs of more than 99 characters"
    ]


def test_wrong_pairs_are_errors_that_name_their_place(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", PAIR, {**PAIR, "correct": None})
    with pytest.raises(DataError, match=r"pairs.jsonl:2: field 'correct' must be a string, found"):
        condefects(path)
    with pytest.raises(DataError, match=r"no example in split 'test'. Give a file with more tasks"):
        condefects(write(tmp_path / "one.jsonl", PAIR), "test", test_share=0.0)
    with pytest.raises(DataError, match="has no split 'tests'. Did you mean 'test'"):
        condefects(path, "tests")
    for difficulty in ("hard", True, 10**400):
        path = write(tmp_path / "pairs.jsonl", {**PAIR, "difficulty": difficulty})
        with pytest.raises(DataError, match=r"pairs.jsonl:1: difficulty must be a number or 'unk"):
            condefects(path)
    with pytest.raises(DataError, match=r"github\.com/appmlk/ConDefects"):
        list(ConDefects(ConDefects.Config()).examples("train"))


def test_condefects_counts_and_fault_lines(shared_data: Path) -> None:
    path = shared_data / "condefects" / "condefects_dev.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    settings = {"validation_share": 0.0, "test_share": 0.0, "max_chars": 500}
    source = ConDefects(ConDefects.Config(path=str(path), **settings))
    examples = list(source.examples("train"))
    assert len(records) == 2020
    assert source.notices == [
        "condefects, split train: left out 963 pairs of more than 500 characters, "
        "1 repeated programs"
    ]
    assert Counter(example.reward for example in examples) == {1.0: 1057 - 1, 0.0: 1057}
    assert all(bool(example.fault_spans) == (example.reward == 0.0) for example in examples)
    line_of = {(r["task_id"], r["incorrect"].rstrip()): int(r["fault_location"]) for r in records}
    distances = Counter(
        min(
            abs(line - line_of[e.task_id.removeprefix("condefects/"), e.completion])
            for line in lines
        )
        for e, lines in ((e, marked_lines(e)) for e in examples if e.reward == 0.0)
    )
    assert (distances[0], distances[1], distances.total()) == (992, 39, 1057)


def marked_lines(example: Example) -> set[int]:
    """Return the numbers, from 1, of the lines that fault spans touch."""
    text = example.completion
    return {
        line
        for start, stop in example.fault_spans
        for line in range(text.count("\n", 0, start) + 1, text.count("\n", 0, stop) + 2)
    }


# ---- quixbugs -----------------------------------------------------------------------------------


def quixbugs(path: str | Path) -> list[Example]:
    return list(QuixBugs(QuixBugs.Config(path=str(path))).examples("test"))


def test_quixbugs_programs_are_as_right_or_wrong_as_they_say(
    shared_data: Path, sandbox_works: None
) -> None:
    examples = quixbugs(shared_data / "quixbugs" / "quixbugs_dev.jsonl")
    assert [example.reward for example in examples] == 20 * [1.0, 0.0]
    assert len({example.task_id for example in examples}) == 20
    limits = Limits(cpu_seconds=1.0, wall_seconds=20.0)
    with Sandbox(workers=2) as sandbox:
        programs = (Program(e.completion, e.tests or "", limits) for e in examples)
        outcomes = {index: verdict.outcome for index, verdict in sandbox.judge(programs)}
    assert [outcomes[index] for index in range(0, 40, 2)] == 20 * ["passed"]
    assert Counter(outcomes[index] for index in range(1, 40, 2)) == {"failed": 19, "timeout": 1}


def test_quixbugs_marks_the_bug(shared_data: Path) -> None:
    examples = quixbugs(shared_data / "quixbugs" / "quixbugs_dev.jsonl")
    marked = {
        e.task_id: [e.completion[start:stop] for start, stop in e.fault_spans]
        for e in examples[1::2]
    }
    assert marked["quixbugs/bitcount"] == ["^="]
    assert marked["quixbugs/hanoi"] == ["helper"]
    assert marked["quixbugs/wrap"] == ["return"]  # the statement before it is missing
    assert marked["quixbugs/gcd"] == ["a", ", b"]
    assert all(marked.values())
    assert not any(example.fault_spans for example in examples[::2])


def test_quixbugs_records_are_checked(tmp_path: Path) -> None:
    record = {
        "task_id": "QuixBugs/f",
        "description": "Return x.\r\n",
        "correct": "def f(x):\n    return x\n",
        "incorrect": "def f(x):\n    return y\n",
        "test_setup_code": "y = 1\n",
        "test_list": ["assert f(2) == 2"],
    }
    right, wrong = quixbugs(write(tmp_path / "good.jsonl", record))
    assert right.prompt == '"""\nReturn x.\n"""\n'
    assert right.tests == wrong.tests == "y = 1\nassert f(2) == 2\n"
    assert wrong.fault_spans == ((21, 22),)
    with pytest.raises(DataError, match=r"twice.jsonl:2: task_id quixbugs/f appears twice"):
        quixbugs(write(tmp_path / "twice.jsonl", record, record))
    for calls in ([], [3], None):
        path = write(tmp_path / "bad.jsonl", {**record, "test_list": calls})
        with pytest.raises(DataError, match=r"bad.jsonl:1: .*test_list"):
            quixbugs(path)
    with pytest.raises(DataError, match="has no split 'train'"):
        list(QuixBugs(QuixBugs.Config(path="x")).examples("train"))


# ---- refactory ----------------------------------------------------------------------------------

EXERCISE = {
    "task_id": "Refactory/9",
    "description": "Add one.\r\n",
    "global_code": "import math\r\n",
    "tests": [
        {"expression": "inc(1)", "expected": "2"},
        {"expression": "inc(-1)", "expected": "0"},
    ],
}


def submission(code: str, label: str) -> dict[str, Any]:
    return {"task_id": "Refactory/9", "code": code, "label": label}


def refactory(
    folder: Path, *submissions: Any, exercise: Any = EXERCISE, **settings: Any
) -> Refactory:
    return Refactory(
        Refactory.Config(
            path=write(folder / "programs.jsonl", *submissions),
            problems=write(folder / "exercises.jsonl", exercise),
            **{"validation_share": 0.0, "test_share": 0.0, **settings},
        )
    )


RIGHT = "def inc(x):\r\n    return x + 1\r\n"
WRONG = "def inc(x):\n    return math.ceil(x) - 1"
PASSES = "def inc(x):\n    return math.floor(x + 1)"
LOOPS = "def inc(x):\n    while True: pass"


def test_the_tests_overrule_labels(tmp_path: Path, sandbox_works: None) -> None:
    source = refactory(
        tmp_path,
        *(submission(RIGHT, "correct"), submission(WRONG, "correct"), submission(PASSES, "wrong")),
        *(submission(LOOPS, "wrong"), submission(RIGHT + "\n", "correct")),
    )
    examples = list(source.examples("train"))
    assert [example.reward for example in examples] == [1.0, 0.0, 1.0, 0.0]
    assert examples[0] == Example(
        task_id="refactory/9",
        prompt='"""\nAdd one.\nassert inc(1) == 2\n"""\nimport math\n',
        completion="def inc(x):\n    return x + 1",
        reward=1.0,
        tests="assert inc(1) == 2\nassert inc(-1) == 0\n",
        code_prefix="import math\n",
        source="refactory",
    )
    assert source.notices == [
        "refactory, split train: left out 1 repeated programs",
        "refactory, split train: the tests overrule 2 labels of 4 (1 labelled correct fail, "
        "1 labelled wrong pass)",
    ]


def test_labels_are_taken_on_request(tmp_path: Path) -> None:
    submissions = [submission(WRONG, "correct"), submission(PASSES, "wrong")]
    source = refactory(tmp_path, *submissions, trust="labels")
    assert [example.reward for example in source.examples("train")] == [1.0, 0.0]
    assert source.notices == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "good"}, r"programs.jsonl:1: task_id 'Refactory/9', label 'good'. Expected"),
        ({"task_id": "Refactory/8"}, r"task_id 'Refactory/8'.* Expected one of Refactory/9"),
        ({"code": 1}, r"programs.jsonl:1: field 'code' must be a string"),
    ],
)
def test_wrong_submissions_are_errors(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(refactory(tmp_path, {**submission(RIGHT, "correct"), **change}).examples("train"))


@pytest.mark.parametrize("tests", [[], ["f()"], [{"expression": "f()"}], None])
def test_wrong_exercises_are_errors(tmp_path: Path, tests: Any) -> None:
    exercise = {**EXERCISE, "tests": tests}
    source = refactory(tmp_path, submission(RIGHT, "correct"), exercise=exercise)
    with pytest.raises(DataError, match=r"exercises.jsonl:1: "):
        list(source.examples("train"))


def test_an_exercise_is_there_once(tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.jsonl", EXERCISE, EXERCISE)
    programs = write(tmp_path / "programs.jsonl", submission(RIGHT, "correct"))
    source = Refactory(Refactory.Config(path=programs, problems=twice))
    with pytest.raises(DataError, match=r"twice.jsonl:2: task_id Refactory/9 appears twice"):
        list(source.examples("train"))


def test_refactory_needs_both_files(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl")
    with pytest.raises(DataError, match=r"problems is not set\. Put data\.zip"):
        list(Refactory(Refactory.Config(path=path)).examples("train"))
    with pytest.raises(DataError, match="path"):
        list(Refactory(Refactory.Config(problems=path)).examples("train"))
    with pytest.raises(DataError, match="no example in split 'test'"):
        list(refactory(tmp_path, submission(RIGHT, "correct")).examples("test"))


def real_refactory(shared_data: Path, **settings: Any) -> Refactory:
    folder = shared_data / "refactory"
    return Refactory(
        Refactory.Config(
            path=str(folder / "submissions_dev.jsonl"),
            problems=str(folder / "problems_dev.jsonl"),
            **settings,
        )
    )


def test_refactory_counts(shared_data: Path) -> None:
    source = real_refactory(shared_data, trust="labels", validation_share=0.0, test_share=0.0)
    examples = list(source.examples("train"))
    records = (shared_data / "refactory" / "submissions_dev.jsonl").read_text().splitlines()
    distinct = {
        (r["task_id"], r["label"], r["code"].replace("\r\n", "\n").rstrip())
        for r in map(json.loads, records)
    }
    assert len(records) == 1733 + 1240
    assert len(examples) == len(distinct) == 1937
    assert source.notices == ["refactory, split train: left out 1036 repeated programs"]


def test_refactory_labels_against_tests(shared_data: Path, sandbox_works: None) -> None:
    source = real_refactory(shared_data, test_share=0.04)
    tested = list(source.examples("test"))
    labelled = list(real_refactory(shared_data, trust="labels", test_share=0.04).examples("test"))
    records = (shared_data / "refactory" / "submissions_dev.jsonl").read_text().splitlines()
    passed = {
        r["code"].replace("\r\n", "\n").rstrip(): r["rerun"]["value_pass"] == r["rerun"]["n_tests"]
        for r in map(json.loads, records)
    }
    assert [e.completion for e in tested] == [e.completion for e in labelled]
    assert [e.is_correct for e in tested] == [passed[e.completion] for e in tested]
    assert {e.task_id for e in tested} == {"refactory/1", "refactory/3", "refactory/4"}
