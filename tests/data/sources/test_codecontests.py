"""CodeContests: records of the published schema, in all forms they are published in."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from wmtp.data.example import Example
from wmtp.data.sources.codecontests import source as module
from wmtp.data.sources.codecontests.schema import GRADES, LANGUAGES, SITES, contest_problem
from wmtp.data.sources.codecontests.source import CodeContests, files_of
from wmtp.errors import DataError

UNKNOWN, PYTHON, CPP, PYTHON3, JAVA = range(5)


def programs(*pairs: tuple[int, str]) -> dict[str, list[Any]]:
    return {"language": [code for code, _ in pairs], "solution": [text for _, text in pairs]}


def cases(*pairs: tuple[str, str]) -> dict[str, list[str]]:
    return {"input": [given for given, _ in pairs], "output": [wanted for _, wanted in pairs]}


# A row of the hub's Parquet files, with all of its columns.
ROW: dict[str, Any] = {
    "name": "1_A. Sum {of} two",
    "description": "Add two numbers.\r\n\r\nInput\n\nTwo numbers. ",
    "public_tests": cases(("1 2\n", "3\n")),
    "private_tests": cases(("0 0\n", "0\n"), ("5 5\n", "10\n")),
    "generated_tests": cases(("9 9\n", "18\n")),
    "source": 2,
    "difficulty": 7,
    "solutions": programs(
        (PYTHON3, "a, b = map(int, input().split())\r\nprint(a + b)\r\n"),
        (CPP, "int main() {}"),
        (PYTHON3, "print(sum(map(int, input().split())))"),
        (PYTHON, "print sum(map(int, raw_input().split()))"),
    ),
    "incorrect_solutions": programs(
        (PYTHON3, "print(3)"), (JAVA, "class A {}"), (PYTHON3, "print(0)"), (PYTHON3, "print(10)")
    ),
    "cf_contest_id": 1,
    "cf_index": "A",
    "cf_points": 500.0,
    "cf_rating": 800,
    "cf_tags": ["math"],
    "is_description_translated": False,
    "untranslated_description": "",
    "time_limit": {"seconds": 1, "nanos": 500_000_000},
    "memory_limit_bytes": 256_000_000,
    "input_file": "",
    "output_file": "",
}
# A message as `MessageToDict(preserving_proto_field_name=True)` writes it: no default values.
MESSAGE: dict[str, Any] = {
    **{key: ROW[key] for key in ("name", "description", "cf_rating", "cf_tags")},
    "public_tests": [{"input": "1 2\n", "output": "3\n"}],
    "private_tests": [{"input": "0 0\n", "output": "0\n"}, {"input": "5 5\n", "output": "10\n"}],
    "generated_tests": [{"input": "9 9\n", "output": "18\n"}],
    "source": "CODEFORCES",
    "difficulty": "A",
    "solutions": [
        {"language": LANGUAGES[code].upper(), "solution": text}
        for code, text in zip(*ROW["solutions"].values(), strict=True)
    ],
    "incorrect_solutions": [
        {"language": LANGUAGES[code].upper(), "solution": text}
        for code, text in zip(*ROW["incorrect_solutions"].values(), strict=True)
    ],
    "time_limit": "1.5s",
    "memory_limit_bytes": "256000000",
}


def write(path: Path, *records: Any) -> Path:
    if path.suffix == ".parquet":
        arrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
        parquet.write_table(arrow.Table.from_pylist(list(records)), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def load(path: Path, split: str = "train", **settings: Any) -> list[Example]:
    return list(CodeContests(CodeContests.Config(path=str(path), **settings)).examples(split))


def notices(path: Path, **settings: Any) -> list[str]:
    source = CodeContests(CodeContests.Config(path=str(path), **settings))
    list(source.examples("train"))
    return source.notices


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("train-00000-of-00039-e991a271dbfa9925.parquet", ROW),
        ("code_contests_train.jsonl", ROW),
        ("train.jsonl", MESSAGE),
    ],
)
def test_every_published_form_gives_the_same_examples(
    tmp_path: Path, name: str, record: Any
) -> None:
    first, *others = load(write(tmp_path / name, record), incorrect_per_problem=3)
    assert first == Example(
        task_id="codecontests/codeforces/1_A. Sum {of} two",
        prompt='"""\nAdd two numbers.\n\nInput\n\nTwo numbers.\n"""\n',
        completion="a, b = map(int, input().split())\nprint(a + b)",
        reward=1.0,
        difficulty=800.0,
        source="codecontests",
        split="train",
        io_tests=(("1 2\n", "3\n"), ("0 0\n", "0\n"), ("5 5\n", "10\n")),
        time_limit_seconds=1.5,
    )
    assert [(example.completion, example.reward) for example in others] == [
        ("print(sum(map(int, input().split())))", 1.0),
        *(("print(3)", 0.0), ("print(0)", 0.0), ("print(10)", 0.0)),
    ]
    assert all(
        replace(e, completion="", reward=None) == replace(first, completion="", reward=None)
        for e in others
    )
    assert Example.from_json(json.loads(json.dumps(first.to_json()))) == first


def test_languages_are_chosen_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", ROW)
    languages = ["python", "cpp", "java"]
    examples = load(path, languages=languages)
    assert [(e.prompt[:3], e.prompt.splitlines()[-1], e.completion[:5]) for e in examples] == [
        ("/*\n", "// C++", "int m"),
        ('"""', "# Python 2", "print"),
        ("/*\n", "// Java", "class"),
    ]
    with pytest.raises(ValueError, match="languages"):
        CodeContests.Config(languages=["rust"])


def test_programs_are_drawn_by_the_seed(tmp_path: Path) -> None:
    many = [(PYTHON3, f"print({number})") for number in range(100, 150)]
    path = write(tmp_path / "train.jsonl", {**ROW, "solutions": programs(*many)})
    drawn = {seed: load(path, seed=seed, solutions_per_problem=5) for seed in (0, 0, 1)}
    assert load(path, seed=0, solutions_per_problem=5) == drawn[0] != drawn[1]
    texts = [example.completion for example in drawn[0] if example.is_correct]
    assert len(set(texts)) == 5
    assert texts == sorted(texts, key=lambda text: int(text[6:-1]))  # in the order of the file
    assert [e.reward for e in load(path, solutions_per_problem=0)] == [0.0, 0.0]


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    odd = {
        **ROW,
        "solutions": programs(
            *(
                (UNKNOWN, "print(1)"),
                (PYTHON3, " \r\n"),
                (PYTHON3, "x" * 101),
                (PYTHON3, "x" * 100),
            ),
            *((PYTHON3, "print(7)\n"), (PYTHON3, "print(7)")),
        ),
        "incorrect_solutions": programs((PYTHON3, "print(7)"), (PYTHON3, "print(8)")),
        "public_tests": None,
        "private_tests": cases(("1", "2"), ("3" * 20, "4"), ("5", "6")),
    }
    files = {**ROW, "input_file": "input.txt", "name": "2"}
    untold = {**ROW, "description": "", "name": "3"}
    path = write(tmp_path / "train.jsonl", odd, files, untold, files)
    settings = {"max_solution_chars": 100, "max_test_chars": 10}
    examples = load(path, **settings)
    assert [e.completion for e in examples[:3]] == ["x" * 100, "print(7)", "print(8)"]
    assert examples[0].io_tests == (("1", "2"),)
    assert [e.io_tests for e in examples[3:]] == [(), (), (), ()]
    (notice,) = notices(path, **settings)
    assert notice.startswith("codecontests, split train: left out ")
    assert sorted(notice.removeprefix("codecontests, split train: left out ").split(", ")) == [
        "1 empty programs",
        "1 incorrect programs that are among the correct ones",
        "1 problems whose name was there already",
        "1 problems without a description",
        "1 programs in an unknown language",
        "1 programs of more than 100 characters",
        "1 repeated programs",
        "2 tests beyond 10 characters of their problem",
        "3 tests with files in place of standard input and output",
    ]


@pytest.mark.parametrize("empty", [None, [], {"language": [], "solution": []}])
def test_problems_may_lack_programs_and_tests(tmp_path: Path, empty: Any) -> None:
    bare = {"name": "x", "description": "y", "solutions": empty, "incorrect_solutions": empty}
    examples = load(write(tmp_path / "train.jsonl", bare, MESSAGE))
    assert {example.task_id for example in examples} == {"codecontests/codeforces/" + ROW["name"]}
    problem = contest_problem(bare, "here")
    assert (problem.task_id, problem.rating) == ("codecontests/unknown_source/x", None)
    assert (problem.grade, problem.time_limit_seconds) == (None, None)
    assert problem.tests == {"public": (), "private": (), "generated": ()}


def test_difficulty_is_the_rating_or_the_grade(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"cf_rating": 0}, {"difficulty": 6, "cf_rating": None}]
    rows = [{**ROW, "name": f"{n}_A", **change} for n, change in enumerate(changes)]
    path = write(tmp_path / "train.jsonl", *rows)
    one = {"solutions_per_problem": 1, "incorrect_per_problem": 0}
    assert [e.difficulty for e in load(path, **one)] == [800.0, None, None]
    assert [e.difficulty for e in load(path, difficulty="grade", **one)] == [7.0, 7.0, None]
    rated = CodeContests(CodeContests.Config(path=str(path), only_with_difficulty=True, **one))
    assert [e.difficulty for e in rated.examples("train")] == [800.0]
    assert "2 problems without a rating" in rated.notices[0]


def test_enumerations_have_the_numbers_of_the_authors_file(shared_data: Path) -> None:
    text = (shared_data / "codecontests_schema" / "contest_problem.proto").read_text()
    for name, ours in (("Source", SITES), ("Difficulty", GRADES), ("Language", LANGUAGES)):
        body = text.split(f"enum {name} {{")[1].split("}")[0]
        entries = [line.split(";")[0].split(" = ") for line in body.splitlines() if " = " in line]
        assert {key.strip().lower(): int(number) for key, number in entries} == {
            entry: number for number, entry in enumerate(ours) if entry
        }


def test_published_statements_become_prompts(tmp_path: Path, shared_data: Path) -> None:
    file = shared_data / "codecontests_schema" / "codecontests_test_prompts_codet.jsonl"
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        meta = record["meta_data"]
        statement = record["prompt"].split("'''\n")[1]
        given = {"name": meta["task_name"], "difficulty": meta["difficulty"], "cf_rating": 0}
        given |= {"description": statement, "time_limit": meta["time_limit"]}
        rows.append({**ROW, **given})
    path = write(tmp_path / "test-00000-of-00001.parquet", *rows)
    examples = load(
        path, "test", difficulty="grade", solutions_per_problem=1, incorrect_per_problem=0
    )
    assert len(examples) == len({example.task_id for example in examples}) == 165
    for example, row in zip(examples, rows, strict=True):
        assert example.prompt == f'"""\n{row["description"].strip()}\n"""\n'
        assert example.difficulty == row["difficulty"]
        limit = row["time_limit"]
        assert example.time_limit_seconds == limit["seconds"] + limit["nanos"] / 1e9


def test_problems_are_read_one_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken = 0

    def endless(*places: Any, **options: Any) -> Iterator[tuple[str, Any]]:
        nonlocal taken
        while True:
            taken += 1
            yield f"row {taken}", {**ROW, "name": str(taken)}

    monkeypatch.setattr(module, "read_records", endless)
    source = CodeContests(CodeContests.Config(hub=True))
    assert len(list(islice(source.examples("valid"), 12))) == 12
    assert taken == 3


def test_the_names_of_files_say_the_split(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train-00001-of-00002", "train-00000-of-00002", "valid-00000-of-00001"):
        write(tmp_path / "data" / f"{name}.parquet", {**ROW, "name": name})
    write(tmp_path / "data" / "restrained.parquet", ROW)
    names = [Path(file).name for file in files_of(str(tmp_path), "train")]
    assert names == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    pattern = str(tmp_path / "**" / "*.parquet")
    assert [Path(file).name for file in files_of(pattern, "valid")] == [
        "valid-00000-of-00001.parquet"
    ]
    assert {e.task_id.rpartition("/")[2] for e in load(tmp_path, "valid")} == {
        "valid-00000-of-00001"
    }
    with pytest.raises(DataError, match=r"no file whose name says split 'test'"):
        load(tmp_path, "test")
    with pytest.raises(DataError, match=r"no split 'validation'\. Did you mean 'valid'"):
        load(tmp_path, "validation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "field 'name' must be a string, found None"),
        ({"description": 3}, "field 'description' must be a string, found 3"),
        ({"source": 5}, "field 'source' must be one of UNKNOWN_SOURCE, CODECHEF, .*, found 5"),
        ({"difficulty": 18}, "field 'difficulty' must be one of UNKNOWN_DIFFICULTY"),
        ({"difficulty": "hardly"}, "found 'hardly'"),
        ({"cf_rating": "800"}, "field 'cf_rating' must be a whole number, found '800'"),
        ({"cf_rating": 10**400}, "field 'cf_rating' must be a whole number, found 1000"),
        ({"cf_rating": -1}, "field 'cf_rating' must be a whole number, found -1"),
        ({"name": "a\ud800"}, "name: half of a surrogate pair"),
        ({"time_limit": {"seconds": "x"}}, "time_limit: field 'seconds' must be a whole number"),
        ({"time_limit": {"nanos": [1]}}, "time_limit: field 'nanos' must be a whole number"),
        ({"time_limit": "2"}, "field 'time_limit' must be {seconds, nanos}, found '2'"),
        ({"solutions": "x"}, "field 'solutions' must be a list of objects, or an object of lists"),
        ({"solutions": ["x"]}, "field 'solutions' must be a list of objects"),
        ({"solutions": {"language": [1], "solution": []}}, "lists of one length"),
        ({"solutions": {"language": 1, "solution": "x"}}, "lists of one length"),
        ({"solutions": programs((9, "x"))}, "solutions: field 'language' must be one of UNKNOWN_L"),
        ({"solutions": programs((True, "x"))}, "field 'language' must be .* found True"),
        ({"solutions": programs((3, 4))}, "solutions: field 'solution' must be a string, found 4"),
        ({"private_tests": cases(("1", 2))}, "private_tests: field 'output' must be a string"),
    ],
)
def test_other_records_are_errors_that_name_their_place(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "train.jsonl", ROW, {**ROW, **change})
    with pytest.raises(DataError, match=f"train.jsonl:2: .*{message}"):
        load(path)


def test_where_the_data_come_from_has_to_be_said() -> None:
    with pytest.raises(DataError, match=r"Set hub: true \(deepmind/code_contests\)"):
        list(CodeContests(CodeContests.Config()).examples("train"))


def test_no_usable_program_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", ROW)
    with pytest.raises(DataError, match="no usable program in split 'train'"):
        load(path, max_solution_chars=3)
