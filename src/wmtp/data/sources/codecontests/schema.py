"""Records of CodeContests: the authors' `contest_problem.proto` as JSON or in Parquet columns.

A list of messages is a list of objects, or as on the hub an object of lists. What is missing has
the default of protocol buffers: "", 0 or an empty list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any

from wmtp.data.records import field_of
from wmtp.data.sources.fields import with_lf
from wmtp.errors import DataError

HUB_ID = "deepmind/code_contests"
HOW = f"Set hub: true ({HUB_ID}), or download its Parquet files and set path."

# The enumerations: an entry's place is its number; "" where there is none.
LANGUAGES = ("unknown_language", "python", "cpp", "python3", "java")
SITES = (
    "unknown_source",
    "codechef",
    "codeforces",
    "hackerearth",
    "codejam",
    "",
    "atcoder",
    "aizu",
)
GRADES = (
    *("unknown_difficulty", "easy", "medium", "hard", "harder", "hardest", "external"),
    *(*"abcdefghijk", "", *"lmnopqrstuv"),
)
UNGRADED = (GRADES.index("unknown_difficulty"), GRADES.index("external"))
TEST_SETS = ("public", "private", "generated")

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ContestProblem:
    """What is used of a record.

    task_id: site and name, for names are unique within one site only. rating: Codeforces' rating;
    grade: the site's own, a number of `GRADES`; None when unknown. uses_files: input or output is a
    file in place of the standard streams. tests: input and output, for each of `TEST_SETS`.
    solutions, incorrect: language (of `LANGUAGES`) and text with LF line ends.
    """

    task_id: str
    description: str
    rating: float | None
    grade: float | None
    time_limit_seconds: float | None
    uses_files: bool
    tests: dict[str, Pairs]
    solutions: Pairs
    incorrect: Pairs


def contest_problem(record: dict[str, Any], where: str) -> ContestProblem:
    """Return the problem in a record; one that does not fit the schema is a `DataError`."""
    site = SITES[_number(record, "source", SITES, where)]
    grade = _number(record, "difficulty", GRADES, where)
    return ContestProblem(
        task_id=f"codecontests/{site}/{field_of(record, 'name', str, where, HOW)}",
        description=with_lf(_text(record, "description", where)).strip(),
        rating=float(_whole(record, "cf_rating", where)) or None,
        grade=None if grade in UNGRADED else float(grade),
        time_limit_seconds=_seconds(record, "time_limit", where),
        uses_files=bool(record.get("input_file") or record.get("output_file")),
        tests={name: _tests(record, f"{name}_tests", where) for name in TEST_SETS},
        solutions=_programs(record, "solutions", where),
        incorrect=_programs(record, "incorrect_solutions", where),
    )


def _tests(record: dict[str, Any], name: str, where: str) -> Pairs:
    return tuple(
        (_text(test, "input", f"{where}: {name}"), _text(test, "output", f"{where}: {name}"))
        for test in _messages(record, name, where)
    )


def _programs(record: dict[str, Any], name: str, where: str) -> Pairs:
    place = f"{where}: {name}"
    return tuple(
        (
            LANGUAGES[_number(program, "language", LANGUAGES, place)],
            with_lf(_text(program, "solution", place)).rstrip(),
        )
        for program in _messages(record, name, where)
    )


def _messages(record: dict[str, Any], name: str, where: str) -> Iterable[dict[str, Any]]:
    """Return the objects of a list of objects, or of an object of lists of the same length."""
    value = record.get(name) or []
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        return value
    columns = list(value.values()) if isinstance(value, dict) else []
    if all(isinstance(column, list) for column in columns) and len({*map(len, columns)}) == 1:
        return (dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True))
    raise _wrong(where, name, "a list of objects, or an object of lists of one length", value)


def _text(record: dict[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if not isinstance(value, str | None):
        raise _wrong(where, name, "a string", value)
    return value or ""


def _number(record: dict[str, Any], name: str, names: tuple[str, ...], where: str) -> int:
    """Return the number of an enumeration's value, which may be given by name."""
    value: Any = record.get(name) or 0
    number = names.index(value.lower()) if str(value).lower() in names else value
    if type(number) is not int or not 0 <= number < len(names) or not names[number]:
        known = ", ".join(known.upper() for known in names if known)
        raise _wrong(where, name, f"one of {known}, or its number", value)
    return number


def _seconds(record: dict[str, Any], name: str, where: str) -> float | None:
    """Return a duration, {seconds, nanos} or as in JSON "1.5s"; None when it is missing or 0."""
    value = record.get(name) or {}
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?s", value):
        return float(value[:-1]) or None
    if not isinstance(value, dict):
        raise _wrong(where, name, "{seconds, nanos}", value)
    place = f"{where}: {name}"
    return _whole(value, "seconds", place) + _whole(value, "nanos", place) / 1e9 or None


def _whole(record: dict[str, Any], name: str, where: str) -> int:
    value = record.get(name) or 0
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise _wrong(where, name, "a whole number", value)
    return value


def _wrong(where: str, name: str, expected: str, found: Any) -> DataError:
    return DataError(f"{where}: field {name!r} must be {expected}, found {shortened(found)}. {HOW}")
