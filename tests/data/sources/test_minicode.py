"""Minicode: meaning, words and code of the grammar agree; splits and bytes are fixed."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from wmtp.data.example import Example
from wmtp.data.sources.minicode.domains import numbers, text
from wmtp.data.sources.minicode.grammar import ProblemSection, make_problems, solutions
from wmtp.data.sources.minicode.operations import Domain, Operation
from wmtp.data.sources.minicode.problems import Pipeline, apply, compose
from wmtp.data.sources.minicode.rendering import STYLES
from wmtp.data.sources.minicode.source import Minicode, Minicodes, build
from wmtp.errors import DataError

SMALL = Minicode.Config(num_problems=80, level_shares=(1, 1, 1, 1, 1), text_share=0.4)
LISTS = [[], [0], [-3], [2, 2, 2], [5, -1, 4, 4, 0, 9, -7, 3], [1, 2, 3, 4, 5, 6]]
STRINGS = ["", "a", " ", "Abba 19-e", "best cat  est", "XYZ*xyx"]


@pytest.fixture(scope="module")
def small() -> Minicodes:
    return build(SMALL)


def everything(found: Minicodes) -> list[Example]:
    return [example for examples in found.examples.values() for example in examples]


def run(prompt: str, body: str, value: Any) -> Any:
    space: dict[str, Any] = {}
    exec(prompt + body, space)
    return space["f"](value)


def pipeline(domain: Domain, operations: tuple[Operation, ...], seed: str) -> Pipeline:
    return Pipeline("", len(operations), "def f(v):\n", "", seed, domain, operations, "v")


@pytest.mark.parametrize(("domain", "inputs"), [(numbers(4), LISTS), (text(), STRINGS)])
def test_code_of_every_operation_means_what_it_says(domain: Domain, inputs: list[Any]) -> None:
    for operation in (o for family in domain.families.values() for o in family):
        problem = pipeline(domain, (operation,), operation.key)
        for body in solutions(problem, 10):
            for value in inputs:
                expected = operation.apply(value)
                found = run(problem.prompt, body, value[:])
                assert (found, type(found)) == (expected, type(expected)), body


@pytest.mark.parametrize("domain", [numbers(9), text()])
def test_no_phrase_has_two_meanings(domain: Domain) -> None:
    operations = [o for family in domain.families.values() for o in family]
    phrases = Counter(phrase for operation in operations for phrase in operation.phrases)
    assert [phrase for phrase, count in phrases.items() if count > 1] == []


@pytest.mark.parametrize("domain", [numbers(5), text()])
def test_compositions_agree_with_the_reference_in_every_style(domain: Domain) -> None:
    rng = random.Random(1)
    for level in (2, 3, 5):
        for _ in range(60):
            operations = compose(domain, level, rng)
            assert [o.reduces for o in operations[:-1]] == [False] * (level - 1)
            problem = pipeline(domain, operations, str(rng.random()))
            for body in solutions(problem, len(STYLES)):
                for value in STRINGS if domain.name == "text" else LISTS:
                    assert run(problem.prompt, body, value[:]) == apply(operations, value), body


def test_one_problem_is_what_it_was() -> None:
    chosen = {o.key: o for family in numbers(6).families.values() for o in family}
    operations = tuple(
        chosen[key] for key in ("keep even numbers", "add 3 to each", "return the sum")
    )
    prompt = "# Keep even numbers, then add 3 to each, then return the sum.\ndef f(xs):\n"
    problem = Pipeline("", 3, prompt, "", "0", numbers(6), operations, "xs")
    assert apply(operations, [1, 2, 4]) == 12
    assert solutions(problem, 1, ("steps",)) == [
        "    xs = [x for x in xs if x % 2 == 0]\n    xs = [x + 3 for x in xs]\n    return sum(xs)"
    ]
    assert solutions(problem, 1, ("lambdas",)) == [
        "    return sum(list(map(lambda x: x + 3, filter(lambda x: x % 2 == 0, xs))))"
    ]


def test_counts_add_up(small: Minicodes) -> None:
    examples = everything(small)
    rewards = Counter(example.reward for example in examples)
    assert small.counts["problems"] == 80 == len({example.task_id for example in examples})
    assert rewards == {1.0: small.counts["correct"], 0.0: small.counts["incorrect"]}
    assert small.counts["incorrect"] > 150
    assert Counter({e.task_id: e.difficulty for e in examples}.values()) == dict.fromkeys(
        (1.0, 2.0, 3.0, 4.0, 5.0), 16
    )
    assert {split: {e.split for e in found} for split, found in small.examples.items()} == {
        split: {split} for split in ("train", "validation", "test")
    }


def test_labels_hold_when_the_programs_run(small: Minicodes) -> None:
    for example in everything(small):
        assert example.tests is not None
        program = compile(
            example.code_prefix + example.completion + "\n" + example.tests, "<p>", "exec"
        )
        if example.reward == 1.0:
            exec(program, {})
        else:
            with pytest.raises(Exception):  # noqa: B017 - any failure will do
                exec(program, {})


def test_faults_are_where_the_spans_say(small: Minicodes) -> None:
    by_problem: dict[str, list[Example]] = {}
    for example in everything(small):
        by_problem.setdefault(example.task_id, []).append(example)
    for examples in by_problem.values():
        right = [e.completion for e in examples if e.reward == 1.0]
        wrong = [e for e in examples if e.reward == 0.0]
        assert len({e.completion for e in examples}) == len(examples)
        assert not any(e.fault_spans for e in examples if e.reward == 1.0)
        for example in wrong:
            last = example.fault_spans[-1][1]
            tail = example.completion[last:]
            assert example.fault_spans
            assert any(body.endswith(tail) for body in right) or last == len(example.completion)


def test_every_step_of_every_composition_matters() -> None:
    for problem in make_problems(ProblemSection(num_problems=60, level_shares=(0, 1, 1, 1))):
        assert isinstance(problem, Pipeline)
        calls = [
            (line.removeprefix("assert ").partition(" == ")) for line in problem.tests.split("\n")
        ]
        inputs = [eval(call[2:-1]) for call, _, _ in calls]
        outputs = [eval(expected) for _, _, expected in calls]
        assert len(inputs) == 8
        assert not inputs[0]
        assert outputs == [apply(problem.operations, value) for value in inputs]
        for index, operation in enumerate(problem.operations):
            rest: tuple[Operation, ...] = (
                problem.operations[:index] + problem.operations[index + 1 :]
            )
            if not operation.reduces:
                assert [apply(rest, value) for value in inputs] != outputs


def test_splits_are_fixed_whatever_the_settings() -> None:
    sections = [
        ProblemSection(num_problems=400),
        ProblemSection(num_problems=500, seed=1, level_shares=(0.5, 0.5), text_share=0.5),
    ]
    splits = [{p.key: p.split for p in make_problems(section)} for section in sections]
    shared = splits[0].keys() & splits[1].keys()
    assert len(shared) > 20
    assert all(splits[0][key] == splits[1][key] for key in shared)
    counts = Counter(value for found in splits for value in found.values())
    assert 0.06 < counts["test"] / 900 < 0.14
    assert 0.02 < counts["validation"] / 900 < 0.08


def test_bytes_depend_on_the_settings_only() -> None:
    code = (
        "import hashlib, json; from wmtp.data.sources.minicode.source import *; "
        "m = build(Minicode.Config(num_problems=40, seed=7)); "
        "print(hashlib.sha256(json.dumps([e.to_json() for s in SPLITS for e in m.examples[s]])"
        ".encode()).hexdigest())"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    here = build(Minicode.Config(num_problems=40, seed=7)).examples
    lines = json.dumps([e.to_json() for s in ("train", "validation", "test") for e in here[s]])
    assert elsewhere == hashlib.sha256(lines.encode()).hexdigest()
    other = build(Minicode.Config(num_problems=40, seed=8)).examples
    assert other != here


def test_a_source_yields_its_splits_and_names_them(small: Minicodes) -> None:
    source = Minicode(SMALL)
    assert tuple(source.examples("test")) == small.examples["test"]
    with pytest.raises(DataError, match=r"no split 'tests'\. Did you mean 'test'\?"):
        list(source.examples("tests"))


def test_more_problems_than_there_are_is_an_error() -> None:
    with pytest.raises(DataError, match=r"of level 1, 3000 are asked for\. Lower num_problems"):
        make_problems(ProblemSection(num_problems=3000, level_shares=(1,), largest_constant=3))


@pytest.mark.parametrize(
    "wrong",
    [
        {"level_shares": ()},
        {"level_shares": (0, 0)},
        {"level_shares": (1,) * 6},
        {"styles": ("x",)},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Minicode.Config(**wrong)
