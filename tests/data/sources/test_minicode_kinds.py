"""Kinds of minicode: meaning, words and code agree; tests tell neighbours apart; bytes are fixed."""

import hashlib
import json
import random
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from wmtp.data.sources.minicode.grammar import (
    ProblemSection,
    iterate_problems,
    make_problems,
    solutions,
)
from wmtp.data.sources.minicode.kinds import kinds
from wmtp.data.sources.minicode.kinds.kind import Filled, Kind, fill, make_filled
from wmtp.data.sources.minicode.kinds.parts import (
    PRINTABLE,
    changes,
    characters,
    either,
    mixtures,
    properties,
    put,
    relations,
    totals,
)
from wmtp.data.sources.minicode.source import SPLITS, Minicode, stream
from wmtp.errors import DataError
from wmtp.evaluation.minicode import MinicodeBenchmark

ALL = (1, 1, 1, 1, 1)
KINDS = [kind for found in kinds(4).values() for kind in found]
QUICKSTART: dict[str, Any] = {"level_shares": (0.04, 0.66, 0.3), "largest_constant": 3}
NUMBERS = range(-12, 15)

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def some(kind: Kind, number: int, seed: int = 0) -> list[Filled]:
    rng = random.Random(f"{kind.name}/{seed}")
    drawn = (make_filled(kind, fill(kind, rng), seed) for _ in range(60 * number))
    found = [problem for problem in drawn if problem is not None][:number]
    assert len(found) == number
    return found


def passes(problem: Filled, body: str, tests: str = "") -> bool:
    try:
        exec(f"{problem.prompt}{body}\n{tests or problem.tests}", {})
    except (AssertionError, TypeError, IndexError, ZeroDivisionError):
        return False
    return True


def value_of(code: str, **names: Any) -> Any:
    return eval(code, {}, names)


def test_parts_mean_what_their_code_says() -> None:
    for part in (*either(properties(6)), *changes(6)):
        for x in NUMBERS:
            assert value_of(part.code, x=x) == part.of(x), part.words
    for part in (*mixtures(6), *relations(6)):
        for x in NUMBERS:
            for y in NUMBERS:
                assert value_of(part.code, x=x, y=y) == part.of(x, y), part.words
    for part in either(characters(), PRINTABLE):
        for x in PRINTABLE:
            assert value_of(part.code, x=x) == part.of(x), part.words
    for part in totals():
        for values in ([], [3], [-2, -5], [4, -1, 0, 7]):
            names: dict[str, Any] = {"y": int(part.also["start"])}
            for x in values:
                exec(part.also["step"], names | {"x": x}, names)
            assert value_of(part.code, x=values) == names["y"] == part.of(values), part.words


def test_no_two_parts_of_a_table_say_the_same() -> None:
    for table in (either(properties(9)), changes(9), mixtures(9), relations(9), totals()):
        assert Counter(part.words for part in table).most_common(1)[0][1] == 1
    tables = [tuple(map(part.of, range(-60, 60))) for part in either(properties(9))]
    assert len(set(tables)) == len(tables) > 300


def test_operands_take_the_places_of_x_and_y() -> None:
    assert put("max(x, 2) - y", ["a[0]", "y1"]) == "max(a[0], 2) - y1"
    assert put("x times y", ["y", "x"]) == "y times x"
    assert put("x", []) == "x"


@each_kind
def test_every_style_means_what_the_words_say(kind: Kind) -> None:
    assert len(kind.styles) == 3
    assert len(kind.phrasings) > 1
    for problem in some(kind, 6):
        bodies = problem.solutions(9)
        assert len(bodies) == 3
        for body in bodies:
            tests = f"{problem.tests}\n{problem.more_tests(10)}"
            assert passes(problem, body, tests), problem.prompt + body


@each_kind
def test_the_words_name_every_part_and_leave_no_hole(kind: Kind) -> None:
    for phrasing in kind.phrasings:
        assert set(re.findall(r"<(\w+)", phrasing)) >= set(kind.slots)
    for style in kind.styles:
        assert set(re.findall(r"<(\w+)", style)) >= set(kind.slots) | {"v"}
    for problem in some(kind, 5, seed=1):
        assert not re.search(r"<\w+>", problem.prompt)
        assert max(map(len, problem.prompt.split("\n"))) < 100
        assert problem.prompt.startswith("# ")


@each_kind
def test_wrong_but_plausible_solutions_fail(kind: Kind) -> None:
    for problem in some(kind, 4, seed=2):
        outputs = [line.partition(" == ")[2] for line in problem.tests.split("\n")]
        usual = Counter(outputs).most_common(1)[0][0]
        for body in (f"return {usual}", f"return {problem.variable}", "return None"):
            assert not passes(problem, f"    {body}")
        for slot, choices in kind.slots.items():
            rng = random.Random(slot)
            others = [part for part in choices if part is not problem.parts[slot]]
            chosen = rng.sample(others, min(6, len(others)))
            confused = [
                replace(problem, parts={**problem.parts, slot: other}).solutions(1)[0]
                for other in chosen
            ]
            assert not all(passes(problem, body) for body in confused), (slot, problem.prompt)


@each_kind
def test_edge_cases_are_among_the_tests(kind: Kind) -> None:
    problem = some(kind, 1)[0]
    lines = problem.tests.split("\n")
    assert len(lines) == 12
    for edge, line in zip(kind.edges, lines, strict=False):
        assert line == f"assert {problem.function}({edge!r}) == {problem.value(edge)!r}"


def test_there_are_thousands_of_compositions_at_every_level() -> None:
    for level, found in kinds(4).items():
        assert sum(kind.size() for kind in found) > 50_000, level
        assert min(kind.size() for kind in found) > 5_000, level
        assert all(kind.level == level for kind in found)


def test_levels_are_shared_out_and_held_out_by_composition() -> None:
    sections = [
        ProblemSection(num_problems=300, levels=ALL, level_shares=(0, 1, 1)),
        ProblemSection(num_problems=200, levels=(0, 1, 1), seed=1, text_share=0.5),
    ]
    first, second = (make_problems(section) for section in sections)
    assert Counter(p.level for p in first) == dict.fromkeys((1, 2, 3, 4, 5), 60)
    assert Counter(p.level for p in second) == {2: 100, 3: 100}
    assert {p.family for p in first if p.level == 2} == {"2", "3"}
    assert {p.family for p in first if p.level != 2} == {kind.name for kind in KINDS}
    assert len({p.task_id for p in first}) == 300
    assert 15 < Counter(p.split for p in first)["test"] < 50
    pipelines = make_problems(ProblemSection(num_problems=300, level_shares=(0, 1, 1)))
    for problem in pipelines:
        same = [p for p in first if p.key == problem.key]
        assert all((p.task_id, p.split) == (problem.task_id, problem.split) for p in same)


def test_the_benchmark_asks_the_held_out_compositions_of_all_levels() -> None:
    settings: dict[str, Any] = {"num_problems": 200, "levels": ALL}
    benchmark = MinicodeBenchmark(MinicodeBenchmark.Config(**settings))
    tasks = benchmark.tasks()
    problems = make_problems(ProblemSection(**settings))
    assert [t.task_id for t in tasks] == [p.task_id for p in problems if p.split == "test"]
    assert [t.reference for t in tasks] == [
        solutions(p, 1)[0] for p in problems if p.split == "test"
    ]
    assert benchmark.max_new_tokens == 512
    assert MinicodeBenchmark(MinicodeBenchmark.Config()).max_new_tokens == 160
    for reference in [task.reference or "" for task in tasks]:
        assert not any(stop in reference for stop in benchmark.stop)


def test_workers_do_not_change_what_is_built() -> None:
    config = Minicode.Config(num_problems=300, levels=ALL, solutions_per_problem=1)
    alone = list(stream(config, "test"))
    assert {solved.problem.split for solved in alone} == {"test"}
    together = list(stream(config, "test", workers=2))
    assert [list(s.examples()) for s in together] == [list(s.examples()) for s in alone]
    assert [s.counts() for s in together] == [s.counts() for s in alone]
    assert sum(s.counts()["incorrect"] for s in alone) > 1.9 * len(alone)


def test_any_beginning_holds_the_levels_in_their_shares() -> None:
    config = ProblemSection(num_problems=160, levels=(1, 2, 0, 4, 1))
    levels = [problem.level for problem in iterate_problems(config)]
    assert Counter(levels) == {1: 20, 2: 40, 4: 80, 5: 20}
    for cut in range(1, 161):
        for level, share in ((1, 1 / 8), (2, 1 / 4), (4, 1 / 2), (5, 1 / 8)):
            assert abs(levels[:cut].count(level) - share * cut) < 1.5


def test_too_many_problems_of_a_level_are_an_error() -> None:
    with pytest.raises(
        DataError, match=r"Lower num_problems or the share of this level in levels\."
    ):
        make_problems(
            ProblemSection(num_problems=500, levels=(0, 1), level_shares=(1,), largest_constant=3)
        )


@pytest.mark.parametrize("levels", [(), (0, 0), (1,) * 6, (-1, 2)])
def test_wrong_levels_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        ProblemSection(levels=levels)


def problems_digest(settings: dict[str, Any]) -> str:
    """Of all that the grammar decides: prompts, tests, splits and correct solutions."""
    config = Minicode.Config(**settings)
    digest = hashlib.sha256()
    for problem in make_problems(config):
        bodies = solutions(problem, config.solutions_per_problem, config.styles)
        record = [problem.task_id, problem.split, problem.prompt, problem.tests, bodies]
        digest.update((json.dumps(record) + "\n").encode())
    return digest.hexdigest()


def examples_digest(settings: dict[str, Any]) -> str:
    """Of all examples, the mutants among them."""
    found: dict[str, list[Any]] = {split: [] for split in SPLITS}
    for solved in stream(Minicode.Config(**settings)):
        found[solved.problem.split] += solved.examples()
    digest = hashlib.sha256()
    for example in (example for examples in found.values() for example in examples):
        digest.update((json.dumps(example.to_json()) + "\n").encode())
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "52f5fc99b0fe01827427c2ad9a341caa2da5f3e12cdf53aeecd9c6bb8d02376d"),
        (QUICKSTART, "e9ac6b4a3d03971195dd82e7fb50d32961be10fd23443185cb6988950d546541"),
    ],
    ids=["default", "quick"],
)
def test_problems_of_the_calibrated_settings_stay_the_same(
    settings: dict[str, Any], expected: str
) -> None:
    assert problems_digest(settings) == expected


def test_examples_stay_the_same() -> None:
    assert (
        examples_digest({**QUICKSTART, "num_problems": 150})
        == "8873f75aefc57a28821ba12be83227eacd02db355aa5c8951f801f782c3e5584"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "84f59f10fa0d0fe1fa5aae276c4b63b5abc0017131a6aadc47a4795e75406310"),
        (QUICKSTART, "4601098034c69ab4cd4443e3a88f4f77c9be402cbbcf94dc5f22d712a94bb917"),
    ],
    ids=["default", "quick"],
)
def test_all_examples_of_the_calibrated_settings_stay_the_same(
    settings: dict[str, Any], expected: str
) -> None:
    assert examples_digest(settings) == expected
