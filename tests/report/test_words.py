from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wmtp.report import words
from wmtp.report.compare import Comparison, compare_runs, difficulty_rates
from wmtp.report.runs import load_runs

from .conftest import RunWriter


def compare(*paths: Path) -> Comparison:
    return compare_runs(load_runs(paths))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_listed() -> None:
    assert words.listed([]) == ""
    assert words.listed("a") == "a"
    assert words.listed("ab") == "a and b"
    assert words.listed("abc") == "a, b and c"


def test_headlines(write_run: RunWriter) -> None:
    lone = write_run("rho1-wmtp", tokens=1000)
    baseline = write_run("mtp-baseline", tokens=2000)
    bare = write_run("mtp-baseline", name="bare", tokens=1000, only_summary=True)
    assert words.headline(compare(lone)) == "One algorithm, nothing compared"
    assert words.headline(compare(lone, baseline)) == "Budgets differ: no claim"
    assert words.headline(compare(lone, bare)) == "No claim: no results to compare"
    seeds = [write_run(a, s) for a in ("mtp-baseline", "critic-wmtp") for s in (3, 4, 5)]
    assert words.headline(compare(*seeds)) == "No sign that weighting helps"


def test_the_summary_says_what_was_trained(write_run: RunWriter) -> None:
    runs = [write_run("mtp-baseline"), write_run("rho1-wmtp"), write_run("rho1-wmtp", 1)]
    first = words.summary(compare(*runs))[0]
    assert first == (
        "2 algorithms were trained with 1 to 2 seeds each on the same budget of 1.25 M tokens."
    )
    alone = words.summary(compare(*runs[1:]))
    assert alone[0] == "rho1-wmtp was trained with 2 seeds on 1.25 M tokens."
    assert "nats per token" in alone[-1]


def test_what_weakens_a_result_is_noted(write_run: RunWriter) -> None:
    runs = [write_run("mtp-baseline"), write_run("rho1-wmtp")]
    edit(runs[1] / "run.json", status="stopped")
    edit(
        runs[1] / "evaluation" / "minicode" / "report.json",
        outcomes={"error": 2},
        settings={"protocol": "sampled"},
    )
    text = " ".join(words.notes(compare(*runs)))
    assert "rho1-wmtp-seed0 is not complete (status: stopped)." in text
    assert "2 samples could not be judged" in text
    assert "evaluated with different settings: protocol, benchmark" in text.replace(" and ", ", ")


def test_difficulty_over_three_seeds_has_an_interval(write_run: RunWriter) -> None:
    comparison = compare(*[write_run(seed=seed) for seed in range(3)])
    (group,) = comparison.groups
    rates = difficulty_rates(group, "minicode")
    assert list(rates) == ["1", "2", "3"]
    for level, rate in rates.items():
        values = [run.evaluations["minicode"].by_difficulty[level].value for run in group.runs]
        assert rate.value == sum(values) / 3
        assert rate.low is not None
        assert rate.high is not None
        assert 0 <= rate.low < rate.value < rate.high <= 1
