"""The suite: the whole story in small, and again after an interruption."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from wmtp.config.environment import Environment
from wmtp.config.load import load_document
from wmtp.config.suite import Suite, variant
from wmtp.errors import SandboxError
from wmtp.pipeline.quickstart import run_suite
from wmtp.sandbox import probe, tiers


def shipped(name: str) -> Suite:
    return load_document(Path(str(files("wmtp") / "recipes" / name))).validate(Suite)


@pytest.fixture
def small() -> Suite:
    """The shipped quickstart, cut down to seconds; everything else stays."""
    suite = shipped("quickstart.yaml")
    change = {
        "model": {"architecture": {"hidden_size": 32, "intermediate_size": 48}},
        "data": {"num_problems": 150},
        "optimization": {"steps": 6},
        "evaluation": {"num_problems": 150, "limit": 6, "held_out_points": 2, "max_new_tokens": 24},
    }
    return suite.model_copy(update={"recipe": variant(suite, "small", change).data})


@pytest.mark.skipif(probe().tier is None, reason="no isolation for programs on this machine")
def test_the_whole_story(small: Suite, tmp_path: Path) -> None:
    environment = Environment(
        output_root=str(tmp_path),
        device="cpu",
        log_every_steps=2,
        tracking={"enabled": False},
        sandbox={"workers": 1},
    )
    page = run_suite(small, environment)
    root = tmp_path / "quickstart"
    assert page == root / "report.html"
    report = json.loads((root / "report.json").read_text())
    arms = ["mtp-baseline", "critic-wmtp", "rho1-wmtp", "shuffled"]
    totals = [json.loads((root / arm / "run.json").read_text()) for arm in arms]
    assert len({t["tokens"] for t in totals}) == 1
    assert len({t["samples"] for t in totals}) == 1
    text = page.read_text()
    for arm in arms:
        assert arm in text
        assert (root / arm / "evaluation" / "minicode" / "report.json").is_file()
        assert arm in json.dumps(report)
    assert "one seed" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    # The same command again does nothing but the report; what is missing is done again.
    before = {arm: (root / arm / "run.json").stat().st_mtime_ns for arm in arms}
    (root / "rho1-wmtp" / "evaluation" / "minicode" / "report.json").unlink()
    page.unlink()
    run_suite(small, environment)
    assert page.is_file()
    assert before == {arm: (root / arm / "run.json").stat().st_mtime_ns for arm in arms}


def test_what_cannot_be_judged_here_is_not_trained(
    small: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "why_unavailable", lambda tier: f"{tier} is made up to fail")
    with pytest.raises(SandboxError, match="made up to fail"):
        run_suite(small, Environment(output_root=str(tmp_path), tracking={"enabled": False}))
    assert list(tmp_path.iterdir()) == []


def test_both_suites_share_budget_and_data() -> None:
    for name in ("quickstart.yaml", "quickstart-full.yaml"):
        suite = shipped(name)
        assert list(suite.arms) == ["mtp-baseline", "critic-wmtp", "rho1-wmtp", "shuffled"]
        for change in suite.arms.values():
            assert set(change) == {"algorithm"}
        problems = ("level_shares", "largest_constant", "num_problems")
        data, evaluation = suite.recipe["data"], suite.recipe["evaluation"]
        assert {k: data.get(k) for k in problems} == {k: evaluation.get(k) for k in problems}
    assert len(shipped("quickstart-full.yaml").seeds) >= 3


def test_variants_do_not_change_the_suite() -> None:
    suite = shipped("quickstart.yaml")
    before = suite.model_dump_json()
    document = variant(suite, "x", {"data": {"path": "y"}})
    document.override(["data.source=jsonl", "model.num_heads=2"])
    document.data["algorithm"]["keep"] = 1
    assert suite.model_dump_json() == before
