"""Two evaluations on the same tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wmtp.cli import app
from wmtp.errors import DataError, WmtpError
from wmtp.evaluation.metrics import mcnemar_exact
from wmtp.report.paired import compare_evaluations


def evaluation(folder: Path, passed: list[list[int]]) -> Path:
    folder.mkdir()
    records = [
        {"task_id": f"t/{n}", "sample_id": i, "outcome": "passed" if good else "failed"}
        for n, samples in enumerate(passed)
        for i, good in enumerate(samples)
    ]
    (folder / "outcomes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def test_mcnemar_by_hand() -> None:
    # 8 discordant tasks, 1 against 7: 2 * (1 + 8) / 2^8.
    a, b = [1] * 7 + [0] + [1] * 5, [0] * 7 + [1] + [1] * 5
    assert mcnemar_exact(a, b) == mcnemar_exact(b, a) == pytest.approx(18 / 256)
    assert mcnemar_exact([1, 0], [1, 0]) == 1.0
    assert mcnemar_exact([1, 0], [0, 1]) == 1.0
    with pytest.raises(WmtpError, match="the same tasks"):
        mcnemar_exact([1], [1, 0])
    with pytest.raises(WmtpError, match="solved"):
        mcnemar_exact([0.5], [1])


def test_mcnemar_is_the_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = [1] * 40 + [0] * 22, [0] * 40 + [1] * 22
    assert mcnemar_exact(a, b) == pytest.approx(stats.binomtest(22, 62, 0.5).pvalue, rel=1e-12)


def test_greedy_evaluations(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", [[1]] * 9 + [[0]] * 3)
    b = evaluation(tmp_path / "b", [[1]] * 3 + [[0]] * 9)
    found = compare_evaluations(a, b)
    assert found.num_tasks == 12
    assert found.differences.keys() == {1}
    assert found.differences[1].value == 0.5
    assert 0 < found.differences[1].low < 0.5 < found.differences[1].high < 1
    assert found.p_value == pytest.approx(2 / 2**6)
    words = ["compare", str(a), str(b), "--output", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "pass@1        +0.5000" in done.output
    saved = json.loads((tmp_path / "out" / "paired.json").read_text())
    assert saved["p_value"] == found.p_value
    assert saved["differences"]["pass@1"]["value"] == 0.5


def test_several_samples_have_pass_at_k_and_no_mcnemar(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", [[1, 0], [0, 0]])
    b = evaluation(tmp_path / "b", [[0, 0, 0], [0, 0, 1]])
    found = compare_evaluations(a, b, ks=(1, 2))
    assert found.p_value is None
    assert found.differences[1].value == pytest.approx((1 / 2 - 1 / 3) / 2)
    assert found.differences[2].value == pytest.approx((1 - 2 / 3) / 2)
    with pytest.raises(WmtpError, match="pass@3 needs at least 3"):
        compare_evaluations(a, b, ks=(3,))


def test_other_tasks_are_an_error(tmp_path: Path) -> None:
    a, b = evaluation(tmp_path / "a", [[1]]), evaluation(tmp_path / "b", [[1], [0]])
    with pytest.raises(
        DataError, match=r"not the same tasks; 1 are in one of them only, such as t/1"
    ):
        compare_evaluations(a, b)
