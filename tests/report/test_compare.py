from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from wmtp.errors import DataError
from wmtp.report import words
from wmtp.report.compare import Comparison, compare_runs
from wmtp.report.groups import group_runs, tokens_to_reach
from wmtp.report.runs import load_runs
from wmtp.report.verdicts import HELD_OUT

from .conftest import RunWriter

ALGORITHMS = ("mtp-baseline", "critic-wmtp", "rho1-wmtp", "shuffled")


def first(passed: int, of: int = 100) -> np.ndarray:
    return np.arange(of) < passed


def comparison_of(
    write_run: RunWriter, passed: dict[str, tuple[int, ...]], **options: int
) -> Comparison:
    """Compare runs that pass the first so many of 100 tasks, by algorithm and seed."""
    return compare_runs(
        load_runs(
            [
                write_run(algorithm, seed, passed=first(count), **options)
                for algorithm, counts in passed.items()
                for seed, count in enumerate(counts)
            ]
        )
    )


def test_one_seed_pairs_the_tasks_and_claims_nothing(write_run: RunWriter) -> None:
    comparison = comparison_of(
        write_run, {"mtp-baseline": (40,), "rho1-wmtp": (60,), "shuffled": (40,)}
    )
    found = comparison.difference("rho1-wmtp", "mtp-baseline", benchmark="minicode")
    assert found is not None
    assert found.value == pytest.approx(0.2)
    assert (found.seeds, found.tasks, found.p_value) == (1, 100, None)
    # The tasks are the same, so only 20 of 100 differ; unpaired it would be 0.2 +- 0.14.
    assert found.low == pytest.approx(0.2 - 1.96 * 0.04, abs=0.02)
    assert found.standing == "no claim"
    same = comparison.difference("shuffled", "mtp-baseline", benchmark="minicode")
    assert same is not None
    assert (same.value, same.standing) == (0.0, "within noise")
    assert comparison.num_tests == 0
    assert not any(claim.helps for claim in comparison.claims)
    assert words.headline(comparison).startswith("No claim: too few seeds")
    assert "These runs do not show that weighting helps." in words.summary(comparison)


def test_three_seeds_can_show_that_weighting_helps(write_run: RunWriter) -> None:
    comparison = comparison_of(
        write_run,
        {"mtp-baseline": (40, 41, 42), "rho1-wmtp": (70, 72, 71), "shuffled": (41, 40, 42)},
    )
    (claim,) = comparison.claims
    assert claim.helps
    assert comparison.num_tests == 3
    assert words.headline(comparison) == "Weighting helps: rho1-wmtp on minicode"
    found = comparison.difference("rho1-wmtp", "mtp-baseline", benchmark="minicode")
    assert found is not None
    assert found.value == pytest.approx(0.3)
    assert found.adjusted_p is not None
    assert found.p_value is not None
    assert found.p_value < found.adjusted_p < 0.05


def test_nothing_solved_at_all_keeps_an_interval(write_run: RunWriter) -> None:
    comparison = comparison_of(write_run, {"mtp-baseline": (0, 0, 0), "rho1-wmtp": (0, 0, 0)})
    rate = comparison.solve_rates["minicode"]["rho1-wmtp"]
    assert (rate.value, rate.low) == (0.0, 0.0)
    assert rate.high is not None
    assert 0.03 < rate.high < 0.05
    found = comparison.difference("rho1-wmtp", "mtp-baseline", benchmark="minicode")
    assert found is not None
    assert found.low is not None
    assert found.low < 0 == found.value
    assert found.standing == "within noise"


def test_two_seeds_still_pair_the_tasks(write_run: RunWriter) -> None:
    comparison = comparison_of(write_run, {"mtp-baseline": (40, 42), "rho1-wmtp": (60, 62)})
    found = comparison.difference("rho1-wmtp", "mtp-baseline", benchmark="minicode")
    assert found is not None
    assert found.value == pytest.approx(0.2)
    assert (found.seeds, found.p_value) == (2, None)
    assert found.verdict == "two seeds: differences may be due to the seed; no claim"


def test_budgets_that_differ_are_said_loudly(write_run: RunWriter) -> None:
    runs = [
        write_run("mtp-baseline", tokens=1_000_000),
        write_run("rho1-wmtp", tokens=1_020_000),
    ]
    comparison = compare_runs(load_runs(runs))
    assert not comparison.budget.matched
    warning = words.budget_warning(comparison)
    assert warning is not None
    assert "mtp-baseline 1,000,000 and rho1-wmtp 1,020,000" in warning
    assert {claim.text for claim in comparison.claims} == {"budgets differ; no claim"}


def test_one_per_cent_is_the_same_budget(write_run: RunWriter) -> None:
    runs = [write_run("mtp-baseline", tokens=1_000_000), write_run(seed=1, tokens=1_010_000)]
    assert compare_runs(load_runs(runs)).budget.matched


def test_tokens_to_reach_interpolates_the_first_crossing() -> None:
    curve = [(0.0, 4.0), (100.0, 2.0), (200.0, 3.0), (300.0, 1.0)]
    assert tokens_to_reach(curve, 3.0) == 50.0
    assert tokens_to_reach(curve, 2.0) == 100.0
    assert tokens_to_reach(curve, 1.5) == 275.0
    assert tokens_to_reach(curve, 0.5) is None
    assert tokens_to_reach([(10.0, 1.0)], 2.0) == 10.0
    assert tokens_to_reach([], 2.0) is None


def test_tokens_to_the_baselines_loss_are_a_share_of_its_budget(write_run: RunWriter) -> None:
    curves = {
        "mtp-baseline": [(50, 3.0), (100, 2.0)],
        "rho1-wmtp": [(50, 2.5), (100, 1.5)],
        "critic-wmtp": [(50, 3.5), (100, 2.5)],
    }
    runs = []
    for algorithm, curve in curves.items():
        path = write_run(algorithm, tokens=100)
        events = [{"step": 1, "tokens": t, "eval/ce/head_0": ce} for t, ce in curve]
        (path / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
        runs.append(path)
    reached = compare_runs(load_runs(runs)).tokens_to_baseline
    assert reached["mtp-baseline"].ratio == 1.0
    assert reached["rho1-wmtp"].ratio == pytest.approx(0.75)
    assert (reached["critic-wmtp"].ratio, reached["critic-wmtp"].reached) == (None, 0)


def test_flops_include_the_reference(write_run: RunWriter) -> None:
    runs = load_runs([write_run("mtp-baseline"), write_run("rho1-wmtp")])
    assert compare_runs(runs).flops_ratio["rho1-wmtp"] == pytest.approx(40 / 31)


def test_without_outcomes_the_held_out_loss_decides(write_run: RunWriter) -> None:
    runs = []
    for algorithm in ("mtp-baseline", "rho1-wmtp"):
        path = write_run(algorithm)
        for file in (path / "evaluation" / "minicode").iterdir():
            file.unlink()
        runs.append(path)
    comparison = compare_runs(load_runs(runs))
    assert [claim.metric for claim in comparison.claims] == [HELD_OUT]
    assert "Missing: no judged samples in all runs." in words.notes(comparison)


def test_only_common_tasks_are_compared(write_run: RunWriter) -> None:
    runs = [write_run("mtp-baseline", num_tasks=30), write_run("rho1-wmtp", num_tasks=20)]
    comparison = compare_runs(load_runs(runs))
    found = comparison.difference("rho1-wmtp", "mtp-baseline", benchmark="minicode")
    assert found is not None
    assert found.tasks == 20
    assert any("tasks that all runs share (20)" in note for note in words.notes(comparison))


def test_groups_are_ordered_and_hold_their_seeds(write_run: RunWriter) -> None:
    paths = [write_run(a, s) for a in reversed(ALGORITHMS) for s in (1, 0)]
    groups = group_runs(load_runs(paths))
    assert [group.label for group in groups] == ["mtp-baseline", "rho1-wmtp", "critic-wmtp",
                                                 "shuffled"]  # fmt: skip
    assert {group.seeds for group in groups} == {(0, 1)}
    assert groups[-1].shuffles == "rho1-wmtp"


def test_settings_tell_apart_runs_of_one_seed(write_run: RunWriter) -> None:
    paths = [write_run("rho1-wmtp", name="half"), write_run("rho1-wmtp", name="most")]
    with pytest.raises(DataError, match="same recipe of rho1-wmtp with the same seed"):
        group_runs(load_runs(paths))
    for path, keep in zip(paths, (0.5, 0.8), strict=True):
        recipe = yaml.safe_load((path / "recipe.yaml").read_text())
        recipe["algorithm"]["keep"] = keep
        (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    labels = [group.label for group in group_runs(load_runs(paths))]
    assert labels == ["rho1-wmtp (keep=0.5)", "rho1-wmtp (keep=0.8)"]


def test_many_differing_settings_give_way_to_the_names_of_arms(write_run: RunWriter) -> None:
    arms = {"soft": (0.8, 2.0), "hard": (0.5, 0.25)}
    paths = []
    for arm, (keep, temperature) in arms.items():
        for seed in (0, 1):
            paths.append(write_run("rho1-wmtp", seed, name=f"{arm}-seed-{seed}"))
            recipe = yaml.safe_load((paths[-1] / "recipe.yaml").read_text())
            recipe["algorithm"] |= {"keep": keep, "temperature": temperature}
            recipe["data"] = {"incorrect_share": keep}
            (paths[-1] / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    groups = group_runs(load_runs(paths))
    assert [(group.label, group.seeds) for group in groups] == [
        ("soft", (0, 1)),
        ("hard", (0, 1)),
    ]
    # Where names do not tell them apart, settings do.
    for path in paths:
        summary = json.loads((path / "run.json").read_text())
        (path / "run.json").write_text(json.dumps(summary | {"name": "rho1"}))
    labels = [group.label for group in group_runs(load_runs(paths))]
    assert labels[0] == "rho1-wmtp (keep=0.8, temperature=2.0, incorrect_share=0.8)"


def test_settings_beyond_the_algorithm_are_noted(write_run: RunWriter) -> None:
    paths = [write_run("mtp-baseline"), write_run("rho1-wmtp")]
    recipe = yaml.safe_load((paths[1] / "recipe.yaml").read_text())
    recipe["optimization"]["learning_rate"] = 0.1
    (paths[1] / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    notes = words.notes(compare_runs(load_runs(paths)))
    assert any("differ between runs: optimization.learning_rate" in note for note in notes)
