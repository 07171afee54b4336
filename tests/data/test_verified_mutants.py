"""Mutants that were run: what is kept of them, and that the order of verdicts does not matter."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from wmtp.data.encode import encode_examples
from wmtp.data.example import Example
from wmtp.data.sources.mbpp import Mbpp
from wmtp.data.tokenizer import train_tokenizer
from wmtp.data.verified_mutants import Found, Run, Search, program_of, search
from wmtp.sandbox import Limits, Program, Sandbox, Verdict

HEADER = "def f(xs):\n"
BODY = "    out = []\n    for x in xs:\n        if x > 2:\n            out.append(x - 1)\n    return out\n"
TESTS = "assert f([1, 2, 3, 9]) == [2, 8]\nassert f([]) == []\n"
GOOD = Example("t/1", HEADER, BODY, reward=1.0, tests=TESTS, code_prefix=HEADER, source="own")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as opened:
        yield opened


def test_mutants_that_fail_have_reward_0_and_say_where(sandbox: Sandbox) -> None:
    (found,) = search([[GOOD]], sandbox.judge, Search(wanted=6))
    assert [verdict.outcome for verdict in found.verdicts] == ["passed"]
    failed = [trial for trial in found.trials if trial.outcome == "failed"]
    assert len(failed) == 6
    assert len({trial.operator for trial in failed}) > 3
    for trial in failed:
        mutant = trial.example()
        assert mutant.reward == 0.0
        assert mutant.fault_spans
        assert (mutant.prompt, mutant.tests, mutant.task_id) == (HEADER, TESTS, "t/1")
    programs = [program_of(t.example(), t.completion, Limits()) for t in found.trials]
    again = dict(sandbox.judge(programs))
    assert [again[n].outcome for n in range(len(programs))] == [
        trial.verdict.outcome for trial in found.trials
    ]


def test_what_passes_is_equivalent_and_what_never_ends_a_timeout(sandbox: Sandbox) -> None:
    body = "    n = 0\n    while n < 3:\n        n += 1\n    return xs[0:] + xs[9:]\n"
    example = Example("t/2", HEADER, body, tests="assert f([4]) == [4]\n", code_prefix=HEADER)
    limits = Limits(cpu_seconds=0.3, wall_seconds=5.0)
    (found,) = search([[example]], sandbox.judge, Search(wanted=30, limits=limits))
    by_outcome = {trial.outcome: trial for trial in found.trials}
    assert set(by_outcome) == {"failed", "equivalent", "timeout"}
    assert by_outcome["equivalent"].example().reward == 1.0
    assert by_outcome["equivalent"].example().fault_spans == ()
    assert by_outcome["timeout"].example().reward == 0.0
    assert by_outcome["timeout"].example().fault_spans
    (counted,) = search([[example]], sandbox.judge, Search(3, limits=limits, count_timeouts=True))
    assert sum(t.outcome in ("failed", "timeout") for t in counted.trials) == 3


def test_an_original_that_fails_is_not_mutated(sandbox: Sandbox) -> None:
    wrong = Example("t/3", HEADER, "    return xs\n", tests=TESTS, code_prefix=HEADER)
    good, bad = search([[GOOD], [wrong]], sandbox.judge, Search(wanted=2))
    assert good.trials
    assert [verdict.outcome for verdict in bad.verdicts] == ["failed"]
    assert not bad.trials


def test_completions_of_one_problem_share_what_is_wanted(sandbox: Sandbox) -> None:
    other = Example(
        "t/1", HEADER, "    return [x - 1 for x in xs if x > 2]\n", tests=TESTS, code_prefix=HEADER
    )
    (found,) = search([[GOOD, other]], sandbox.judge, Search(wanted=6))
    assert sum(trial.outcome == "failed" for trial in found.trials) == 6
    assert {trial.origin.completion for trial in found.trials} == {BODY, other.completion}


def verdict_on(program: Program) -> Verdict:
    """The original passes, and every third mutant or so."""
    passes = program.code == HEADER + BODY or len(program.code) % 3 == 0
    return Verdict("passed" if passes else "failed", 0.0)


def in_rounds(seed: int) -> Run:
    """Take all programs that there are, and yield their verdicts in a random order."""

    def run(programs: Iterable[Program]) -> Iterator[tuple[int, Verdict]]:
        taken = list(enumerate(programs))
        random.Random(seed).shuffle(taken)
        for place, program in taken:
            yield place, verdict_on(program)

    return run


def one_by_one(programs: Iterable[Program]) -> Iterator[tuple[int, Verdict]]:
    for place, program in enumerate(programs):
        yield place, verdict_on(program)


def test_the_order_of_verdicts_changes_nothing() -> None:
    groups = [[replace(GOOD, task_id=f"t/{n}")] for n in range(5)]
    ticks: list[tuple[int, int]] = []
    first = search(groups, one_by_one, Search(wanted=5), lambda *t: ticks.append(t))
    assert ticks == [(n, 5) for n in range(1, 6)]
    for seed in range(4):
        assert search(groups, in_rounds(seed), Search(wanted=5)) == first
    assert len({t.completion for found in first for t in found.trials}) > 8
    assert search(groups, one_by_one, Search(wanted=5, seed=1)) != first


def test_every_fault_of_mbpp_is_in_a_token_of_a_trained_tokenizer(shared_data) -> None:
    source = Mbpp(Mbpp.Config(path=str(shared_data / "mbpp" / "mbpp.jsonl")))
    examples = list(source.examples("train"))[:60]
    examples.append(Example("u/1", "", 's = "äöü€𝄞"\nr = s + "é" == "ü€"\n', tests="r"))

    def all_fail(programs: Iterable[Program]) -> Iterator[tuple[int, Verdict]]:
        solutions = {example.completion for example in examples}
        for place, program in enumerate(programs):
            yield place, Verdict("passed" if program.code in solutions else "failed", 0.0)

    found: list[Found] = search([[e] for e in examples], all_fail, Search(wanted=8))
    mutants = [trial.example() for result in found for trial in result.trials]
    assert len(mutants) > 400
    tokenizer = train_tokenizer((e.prompt + e.completion for e in examples), 600)
    items = encode_examples(mutants, tokenizer, 10**6, "mutants").items
    assert all(item.fault.any() for item in items)
