from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from wmtp.errors import DataError, OutputError
from wmtp.report.heatmap import weight_level
from wmtp.report.page import write_report

from .conftest import RunWriter, run_writer, write_json

ALGORITHMS = ("mtp-baseline", "critic-wmtp", "rho1-wmtp", "shuffled")
HOSTILE = "</script></pre><img src=x onerror=alert(1)>{{ 7 * 7 }}<script>alert(2)</script>$x^{$"
BROKEN = HOSTILE + "\ud800"  # half a surrogate pair


class Page(HTMLParser):
    """Collects tags with their attributes, and checks that what opens also closes."""

    VOID = frozenset({"meta", "input", "br", "img", "link", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}


@pytest.fixture(scope="module")
def four_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    write = run_writer(tmp_path_factory.mktemp("four"))
    return [write(algorithm) for algorithm in ALGORITHMS]


@pytest.fixture(scope="module")
def report(four_runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(four_runs, tmp_path_factory.mktemp("report"), title="A & B")


def test_the_page_has_every_part(report: Path) -> None:
    text = report.read_text("utf-8")
    assert report.name == "report.html"
    assert Page(text).open == []
    assert "<title>A &amp; B</title>" in text
    assert text.count("<svg") == 7
    for words in ("Solved tasks: minicode", "Held-out loss and cost", "Weights on real samples",
                  "What became of the samples", "isolated by: namespaces", "(fault)",
                  "Not drawn, because every token weighs 1: mtp-baseline"):  # fmt: skip
        assert words in text
    assert len(text) < 1_500_000


def test_the_page_needs_nothing_from_outside(report: Path) -> None:
    text = report.read_text("utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    page = Page(text)
    assert not page.names() & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#")


def test_ids_are_unique_and_references_resolve(report: Path) -> None:
    text = report.read_text("utf-8")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)
    assert {first or second for first, second in used} <= set(ids)


def test_hostile_text_is_escaped_everywhere(write_run: RunWriter, tmp_path: Path) -> None:
    path = write_run("rho1-wmtp", completion=BROKEN, detail=BROKEN)
    weights = {
        "task_id": HOSTILE, "reward": 0, "prompt": BROKEN, "tokens": [BROKEN], "weights": [[0.0]],
        "fault": [True],
    }  # fmt: skip
    write_json(path / "weights.json", {"samples": [weights]})
    write_json(path / "provenance.json", {HOSTILE: HOSTILE})
    summary = json.loads((path / "run.json").read_text())
    write_json(path / "run.json", {**summary, "name": HOSTILE, "algorithm": HOSTILE})
    (path / "recipe.yaml").write_text(json.dumps({"name": "<b>"}))
    text = write_report([path, write_run()], tmp_path, title=HOSTILE).read_text("utf-8")
    assert not Page(text).names() & {"script", "img"}
    assert "{{ 7 * 7 }}" in text


def test_the_same_runs_give_the_same_page(
    report: Path, four_runs: list[Path], tmp_path: Path
) -> None:
    again = write_report(four_runs, tmp_path, title="A & B")
    assert again.read_text("utf-8") == report.read_text("utf-8")


def test_json_holds_the_numbers(report: Path) -> None:
    record = json.loads(report.with_name("report.json").read_text())
    assert [a["label"] for a in record["algorithms"]] == list(ALGORITHMS)
    assert record["headline"].startswith("No claim")
    assert len(record["differences"]) == 10
    assert record["runs"][0]["evaluations"]["minicode"]["sandbox"] == "namespaces"
    assert record["algorithms"][0]["pass@1"]["minicode"]["n"] == 120


def test_a_lone_baseline_that_solves_nothing(write_run: RunWriter, tmp_path: Path) -> None:
    path = write_run(passed=np.zeros(50, dtype=bool))
    write_json(
        path / "evaluation" / "held-out" / "report.json",
        {"metrics": {"ce/head_0": {"value": 0.54, "low": 0.51, "high": 0.57, "n": 64}}},
    )
    text = write_report([path], tmp_path).read_text("utf-8")
    assert "One algorithm, nothing compared" in text
    assert "0.0 %" in text
    assert "0.510 to 0.570" in text
    assert "against baseline" not in text


def test_a_run_with_nothing_but_its_summary(write_run: RunWriter, tmp_path: Path) -> None:
    text = write_report([write_run(only_summary=True)], tmp_path).read_text("utf-8")
    assert Page(text).open == []
    for part in ("no judged samples", "no held-out loss", "no recorded weights", "no recipe"):
        assert f"Missing: {part} in mtp-baseline-seed0." in text
    assert "<svg" not in text


def test_failure_leaves_nothing_behind(write_run: RunWriter, tmp_path: Path) -> None:
    path = write_run()
    (path / "weights.json").write_text("{")
    with pytest.raises(DataError):
        write_report([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written(write_run: RunWriter, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_report([write_run()], tmp_path / "file")


@pytest.mark.parametrize(
    ("weight", "level"), [(0, -5), (0.01, -4), (0.8, -1), (1, 0), (1 / 0.6, 2), (5, 5), (40, 5)]
)
def test_weight_levels_are_logarithmic_around_one(weight: float, level: int) -> None:
    assert weight_level(weight) == level
