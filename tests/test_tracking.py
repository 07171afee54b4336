"""Tracking against real MLflow stores."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow", reason="needs the tracking extra")

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from wmtp import tracking
from wmtp.config.environment import TrackingSection
from wmtp.errors import ConfigError, DataError, OutputError
from wmtp.tracking import RUN_FILE, Tracker, sqlite_path

PARAMS = {"seed": 1, "model": {"num_heads": 4, "none": None, "empty": {}}}


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> TrackingSection:
    """A SQLite store in a folder that does not exist yet."""
    folder = tmp_path_factory.mktemp("store") / "runs"
    return TrackingSection(uri=f"sqlite:///{folder}/mlflow.db", experiment="tests")


def run_of(folder: Path, section: TrackingSection) -> Any:
    stored = json.loads((folder / RUN_FILE).read_text())
    assert stored["uri"] == section.uri
    return MlflowClient(tracking_uri=section.uri).get_run(stored["run_id"])


def test_a_run_in_a_sqlite_store(tmp_path: Path, section: TrackingSection) -> None:
    report = tmp_path / "report.txt"
    report.write_text("hello")
    with Tracker(section, tmp_path) as tracker:
        tracker.start("first", PARAMS, {"algorithm": "mtp-baseline"})
        tracker.log({"train/loss": 2.0, "eval/mbpp/pass@1": 0.25}, step=10)
        tracker.log({"train/loss": math.nan}, step=20)
        tracker.artifact(report)
    run = run_of(tmp_path, section)
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params == {
        "seed": "1", "model.num_heads": "4", "model.none": "None", "model.empty": "{}",
    }  # fmt: skip
    assert run.data.metrics["eval/mbpp/pass_at_1"] == 0.25
    assert math.isnan(run.data.metrics["train/loss"])
    assert run.data.tags["algorithm"] == "mtp-baseline"
    assert Path(run.info.artifact_uri.removeprefix("file://"), "report.txt").read_text() == "hello"


def test_a_resumed_training_continues_its_run(tmp_path: Path, section: TrackingSection) -> None:
    def train(step: int, params: dict[str, Any]) -> None:
        with Tracker(section, tmp_path) as tracker:
            tracker.start("resumed", params)
            tracker.log({"loss": 1.0 / step}, step)
            if step == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(1, {"a": 1})
    first = run_of(tmp_path, section)
    assert first.info.status == "KILLED"
    train(2, {"a": 2})
    second = run_of(tmp_path, section)
    assert second.info.run_id == first.info.run_id
    assert second.info.status == "FINISHED"
    assert second.data.params == {"a": "1"}
    history = MlflowClient(tracking_uri=section.uri).get_metric_history(first.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]


def test_a_run_that_the_store_lost_starts_anew(tmp_path: Path, section: TrackingSection) -> None:
    (tmp_path / RUN_FILE).write_text(json.dumps({"uri": section.uri, "run_id": "0" * 32}))
    with Tracker(section, tmp_path) as tracker:
        tracker.start("anew", {})
    first = run_of(tmp_path, section)
    MlflowClient(tracking_uri=section.uri).delete_run(first.info.run_id)
    with Tracker(section, tmp_path) as tracker:
        tracker.start("anew", {})
    assert run_of(tmp_path, section).info.run_id != first.info.run_id
    elsewhere = {"uri": "sqlite:///elsewhere.db", "run_id": "0" * 32}
    (tmp_path / RUN_FILE).write_text(json.dumps(elsewhere))
    with Tracker(section, tmp_path) as tracker:
        tracker.start("anew", {})
    assert run_of(tmp_path, section).info.run_id != "0" * 32


def test_failures_are_marked(tmp_path: Path, section: TrackingSection) -> None:
    tracker = Tracker(section, tmp_path)

    def fail() -> None:
        with tracker:
            tracker.start("failed", {})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert run_of(tmp_path, section).info.status == "FAILED"
    tracker.log({"loss": 1.0}, 1)  # after the end: nothing


def test_limits_of_the_store(tmp_path: Path, section: TrackingSection) -> None:
    params = {f"p{index}": index for index in range(250)}
    with Tracker(section, tmp_path) as tracker:
        tracker.start("limits", {**params, "long": "x" * 20_000, "k" * 300: 1, "odd%": 1})
        tracker.log({f"m{index}": float(index) for index in range(1500)}, step=1)
    run = run_of(tmp_path, section)
    assert len(run.data.params) == 253
    assert run.data.params["long"] == "x" * 5000
    assert run.data.params["k" * 250] == "1"
    assert run.data.params["odd_"] == "1"
    assert len(run.data.metrics) == 1500


def test_disabled_tracking_touches_nothing(tmp_path: Path) -> None:
    section = TrackingSection(enabled=False, uri=f"sqlite:///{tmp_path}/no/mlflow.db")
    with Tracker(section, tmp_path / "run") as tracker:
        tracker.start("none", {})
        tracker.log({"loss": 1.0}, 1)
        tracker.artifact(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_mlflow_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'wmtp\[tracking\]'\) or set tracking\.en"):
        Tracker(TrackingSection(), tmp_path).start("x", {})


def test_a_store_that_does_not_answer_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    section = TrackingSection(uri="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9 does not answer .*tracking\.enabled"):
        Tracker(section, tmp_path).start("x", {})
    (tmp_path / "file").write_text("")
    section = TrackingSection(uri=f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(OutputError, match=r"mlflow\.db: cannot be written"):
        Tracker(section, tmp_path).start("x", {})


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("hello")
    section = TrackingSection(uri=f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(ConfigError, match=r"tracking\.uri: .*file is not a database.* correct the"):
        Tracker(section, tmp_path).start("x", {})


@pytest.mark.parametrize(("text", "message"), [("", "not valid JSON"), ("{}", "uri and run_id")])
def test_a_broken_file_of_the_run_is_named(
    tmp_path: Path, section: TrackingSection, text: str, message: str
) -> None:
    (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(DataError, match=rf"mlflow\.json: .*{message}"):
        Tracker(section, tmp_path).start("x", {})


def test_a_store_that_goes_away_costs_one_warning(
    tmp_path: Path,
    section: TrackingSection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("connection lost\nand a long story")

    with caplog.at_level(logging.WARNING, logger="wmtp.tracking"), Tracker(section, tmp_path) as t:
        t.start("away", {})
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", refuse)
            for step in range(3):
                t.log({"loss": float(step)}, step)
    assert [record.getMessage() for record in caplog.records] == [
        f"MLflow at {section.uri} does not answer (connection lost). Training goes on; metrics "
        f"wait and are in the run folder {tmp_path} too."
    ]
    history = MlflowClient(tracking_uri=section.uri).get_metric_history(
        run_of(tmp_path, section).info.run_id, "loss"
    )
    assert [metric.step for metric in history] == [0, 1, 2]


def test_metrics_that_never_arrive_are_counted(
    tmp_path: Path,
    section: TrackingSection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = Tracker(section, tmp_path)
    tracker.start("lost", {})

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    tracker.log({"loss": 1.0, "ce": 2.0}, 1)
    tracker.end()
    assert len(caplog.records) == 2
    assert caplog.records[1].getMessage().startswith("2 metrics did not reach MLflow")


def test_sqlite_paths() -> None:
    assert sqlite_path("sqlite:///runs/mlflow.db") == Path("runs/mlflow.db")
    assert sqlite_path("sqlite:////data/mlflow.db") == Path("/data/mlflow.db")
    assert sqlite_path("http://host:5000") is None
