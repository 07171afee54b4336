"""GSM8K and MATH: final answers, and a judge that hostile answers cannot hang, on the published data."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wmtp.cli import app
from wmtp.errors import DataError, SandboxError
from wmtp.evaluation import answers
from wmtp.evaluation.answers import AnswerJudge, AnswerLimits, FinalAnswer
from wmtp.evaluation.gsm8k import Gsm8kBenchmark, number_after_mark
from wmtp.evaluation.judge import judge as judge_samples
from wmtp.evaluation.math import MathBenchmark


@pytest.fixture(scope="module")
def judge() -> Iterator[AnswerJudge]:
    with closing(AnswerJudge(workers=1)) as judge:
        yield judge


def outcomes(judge: AnswerJudge, given: list[FinalAnswer]) -> list[str]:
    found = dict(judge.judge(given))
    return [found[index].outcome for index in range(len(given))]


def math_answer(expected: str, given: str | None, cpu_seconds: int = 20) -> FinalAnswer:
    return FinalAnswer(given, expected, symbolic=True, limits=AnswerLimits(cpu_seconds))


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("3 + 4 = <<3+4=7>>7\n#### 7", "7"),
        ("#### $1,234.50", "1234.5"),
        ("#### 18 dollars", "18"),
        ("#### -3\n\nQuestion: what else?\n#### 5", "-3"),
        ("#### \n5", None),
        ("the answer is 7", None),
        ("", None),
        ("####", None),
        ("#### seven", "seven"),
    ],
)
def test_the_answer_of_a_gsm8k_completion(completion: str, answer: str | None) -> None:
    assert number_after_mark(completion) == answer


@pytest.mark.parametrize(
    ("expected", "given", "outcome"),
    [
        (r"\frac{1}{2}", "0.5", "passed"),
        (r"2\sqrt{3}", r"\sqrt{12}", "passed"),
        ("10,000", "10000", "passed"),
        (r"\text{Evelyn}", "Evelyn", "passed"),
        ("x^2+2x+1", "(x+1)^2", "passed"),
        (r"90^\circ", "90", "passed"),
        (r"\frac{1}{2}", "0.51", "failed"),
        ("(1,2)", "(2,1)", "failed"),
        ("(1,2)", "[1,2]", "failed"),
        ("5", "", "failed"),
        ("5", None, "failed"),
        ("5", "__import__('os').getpid()", "failed"),
    ],
)
def test_equivalence_of_answers(
    judge: AnswerJudge, expected: str, given: str | None, outcome: str
) -> None:
    assert outcomes(judge, [math_answer(expected, given)]) == [outcome]


def test_answers_without_end_are_bounded_and_the_next_one_is_judged(judge: AnswerJudge) -> None:
    hostile = ["9^{9^{9^{9^9}}}", "10000000000!", "{" * 100_000]
    given = [math_answer("5", answer, cpu_seconds=1) for answer in hostile]
    assert outcomes(judge, [*given, math_answer("5", "10/2")]) == ["timeout"] * 3 + ["passed"]


def test_what_is_said_of_an_endless_answer_is_short(judge: AnswerJudge) -> None:
    given = [FinalAnswer("1" * 9000, "5", symbolic=symbolic) for symbolic in (True, False)]
    for _, verdict in judge.judge(given):
        assert verdict.outcome == "failed"
        assert verdict.detail.startswith("'111")
        assert len(verdict.detail) <= 300


def test_memory_is_bounded(judge: AnswerJudge) -> None:
    tight = AnswerLimits(cpu_seconds=20, memory_bytes=1 << 20)
    answer = FinalAnswer("1+" * 500_000 + "1", "500001", symbolic=True, limits=tight)
    assert outcomes(judge, [answer])[0] in ("memory", "failed")


def test_a_process_that_ends_is_an_error_of_the_judge(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(1)\n")
    monkeypatch.setattr(answers, "_SERVER", broken)
    with closing(AnswerJudge(workers=1)) as judge:
        assert outcomes(judge, [math_answer("5", "10/2")]) == ["error"]


def test_without_math_verify_there_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "find_spec", lambda name: None)
    with (
        closing(AnswerJudge(workers=1)) as judge,
        pytest.raises(SandboxError, match=r"wmtp\[eval\]"),
    ):
        list(judge.judge([math_answer("5", "10/2")]))


def test_gsm8k_references_pass_and_those_of_other_problems_fail(shared_data: Path) -> None:
    benchmark = Gsm8kBenchmark(Gsm8kBenchmark.Config(path=str(shared_data / "gsm8k")))
    tasks = benchmark.tasks()
    assert len(tasks) == 1319
    right = [{"task_id": task.task_id, "completion": task.reference} for task in tasks]
    with closing(AnswerJudge(workers=1)) as judge:
        found = judge_samples(right, benchmark, sandbox=judge)
        assert {o["outcome"] for o in found} == {"passed"}
        programs = [benchmark.program(task, task.reference or "") for task in tasks]
        shifted = [replace(a, given=b.given) for a, b in itertools.pairwise(programs)]
        same = sum(a.given == b.given for a, b in itertools.pairwise(programs))
        assert outcomes(judge, shifted).count("passed") == same < 30


def test_math_references_pass_and_those_of_other_problems_fail(
    judge: AnswerJudge, shared_data: Path
) -> None:
    benchmark = MathBenchmark(
        MathBenchmark.Config(path=str(shared_data / "math500" / "test.jsonl"), num_shots=0)
    )
    tasks = benchmark.tasks()
    assert len(tasks) == 500
    assert [task.difficulty for task in tasks].count(5.0) == 134
    programs = [benchmark.program(task, task.reference or "") for task in tasks]
    assert set(outcomes(judge, programs)) == {"passed"}
    some = programs[::10]
    # A space makes it another text, so that math-verify decides.
    assert set(outcomes(judge, [replace(p, given=f" {p.expected}") for p in some])) == {"passed"}
    shifted = [replace(a, given=b.given) for a, b in itertools.pairwise(some)]
    same = sum(a.given == b.given for a, b in itertools.pairwise(some))
    assert outcomes(judge, shifted).count("passed") == same == 1


def test_prompts_show_problems_of_the_training_split(shared_data: Path) -> None:
    benchmark = Gsm8kBenchmark(Gsm8kBenchmark.Config(path=str(shared_data / "gsm8k")))
    prompt = benchmark.tasks()[0].prompt
    assert prompt.count("Question: ") == 9
    assert prompt.count("####") == 8
    assert prompt.startswith("Question: Natalia sold clips to 48 of her friends in April")
    assert prompt.endswith("at the farmers' market?\nAnswer:")
    plain = Gsm8kBenchmark(Gsm8kBenchmark.Config(path=str(shared_data / "gsm8k"), num_shots=0))
    assert plain.tasks()[0].prompt.startswith("Janet’s ducks")


def test_missing_training_problems_name_the_way_out(shared_data: Path) -> None:
    config = MathBenchmark.Config(path=str(shared_data / "math500"))
    with pytest.raises(DataError, match=r"no file train\.jsonl.*num_shots=0"):
        MathBenchmark(config).tasks()


def test_wmtp_judge_on_answers(tmp_path: Path) -> None:
    problems = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(4)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(p) + "\n" for p in problems))
    samples = tmp_path / "samples.jsonl"
    given = [{"task_id": f"gsm8k/test/{n}", "completion": "so\n#### 2"} for n in range(4)]
    samples.write_text("".join(json.dumps(s) + "\n" for s in given))
    words = ["judge", str(samples), "--benchmark", "gsm8k", "--data", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--set", "num_shots=0"])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "samples.judged" / "report.json").read_text())
    assert report["metrics"]["pass@1"]["value"] == 0.25
    assert report["outcomes"] == {"passed": 1, "failed": 3}
    assert report["sandbox"].startswith("none")
