"""MLflow, as training uses it: one MLflow run per run folder, continued on resume."""

from __future__ import annotations

import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from wmtp.config.environment import TrackingSection
from wmtp.errors import ConfigError, DataError
from wmtp.inputs import read_json_object
from wmtp.outputs import atomic_write_json, writing

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

Status = Literal["FINISHED", "FAILED", "KILLED"]

RUN_FILE = "mlflow.json"
RETRY_SECONDS = 60.0

_SQLITE = "sqlite:///"
# Limits of MLflow's stores (mlflow.utils.validation).
_NAME_LENGTH = 250
_VALUE_LENGTH = 5000
_PARAMETERS_PER_REQUEST = 100
_METRICS_PER_REQUEST = 1000

_log = logging.getLogger(__name__)


class Tracker:
    """Sends one training to MLflow; does nothing when tracking is disabled.

    The id of the MLflow run is kept in `folder`, so that a resumed training continues it. A store
    that fails at the start is an error. One that fails later costs a warning: metrics wait until it
    answers again (tried once a minute) while training goes on. Leaving the context ends the run:
    FINISHED, KILLED on Ctrl-C, FAILED on any other exception.
    """

    def __init__(self, section: TrackingSection, folder: str | Path) -> None:
        self.section = section
        self.folder = Path(folder)
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._waiting: list[Metric] = []
        self._retry_at = 0.0
        self._failing = False

    def start(
        self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, Any] | None = None
    ) -> None:
        """Create the MLflow run, or continue the one of `folder`, whose parameters stay.

        params: nested settings, sent as `a.b`. Raises `ConfigError` when MLflow is not installed or
        its store does not answer, `OutputError` when a SQLite store cannot be written.
        """
        if not self.section.enabled:
            return
        if find_spec("mlflow") is None:
            raise ConfigError(
                "tracking.enabled: MLflow is not installed. Install it (pip install "
                "'wmtp[tracking]') or set tracking.enabled to false in the environment."
            )
        with _answering(self.section.uri):
            client = _client(self.section.uri)
            run_id = _continued(client, self._stored_run_id())
            if run_id is None:
                experiment = _experiment_id(client, self.section)
                run_id = client.create_run(experiment, run_name=run_name).info.run_id
                _log_params(client, run_id, params)
            for name, value in (tags or {}).items():
                client.set_tag(run_id, name, str(value)[:_VALUE_LENGTH])
        atomic_write_json(self.folder / RUN_FILE, {"uri": self.section.uri, "run_id": run_id})
        self._client, self._run_id = client, run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send metrics of one step; `pass@1` becomes `pass_at_1`, as MLflow has no `@`."""
        if self._client is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(_name(key), float(v), now, step) for key, v in metrics.items()]
        self._attempt(self._flush)

    def artifact(self, path: str | Path) -> None:
        """Send a file."""
        if self._client is not None:
            client = self._client
            self._attempt(lambda: client.log_artifact(self._run_id, str(path)))

    def end(self, status: Status = "FINISHED") -> None:
        """Send what waits and close the run; further calls do nothing."""
        if self._client is None:
            return
        client = self._client
        self._retry_at = 0.0
        self._attempt(self._flush)
        self._attempt(lambda: client.set_terminated(self._run_id, status))
        if self._waiting:
            _log.warning(
                "%d metrics did not reach MLflow; they are in the run folder %s.",
                len(self._waiting),
                self.folder,
            )
        self._client = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.end("FINISHED")
        else:
            self.end("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    def _flush(self) -> None:
        assert self._client is not None
        while self._waiting:
            batch = self._waiting[:_METRICS_PER_REQUEST]
            self._client.log_batch(self._run_id, metrics=batch)
            del self._waiting[: len(batch)]

    def _attempt(self, send: Callable[[], object]) -> None:
        """Call `send` unless the store failed less than a minute ago; a failure is a warning."""
        from mlflow.exceptions import MlflowException

        if time.monotonic() < self._retry_at:
            return
        try:
            send()
        except (MlflowException, OSError) as error:
            if not self._failing:
                _log.warning(
                    "MLflow at %s does not answer (%s). Training goes on; metrics wait and are in "
                    "the run folder %s too.",
                    self.section.uri,
                    _first_line(error),
                    self.folder,
                )
            self._failing = True
            self._retry_at = time.monotonic() + RETRY_SECONDS
        else:
            self._failing = False

    def _stored_run_id(self) -> str | None:
        file = self.folder / RUN_FILE
        if not file.exists():
            return None
        stored = read_json_object(file)
        if not stored.keys() >= {"uri", "run_id"}:
            raise DataError(
                f"{file}: expected uri and run_id. Delete it to start a new MLflow run."
            )
        return str(stored["run_id"]) if stored["uri"] == self.section.uri else None


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a `sqlite:///` tracking URI, or None for another kind of store."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    """Turn a store that does not answer into a `ConfigError` (`OutputError` for a SQLite file)."""
    _configure()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # of a file that is no database

    try:
        with writing(sqlite_path(uri) or uri):
            yield
    except (MlflowException, OSError, SQLAlchemyError) as error:
        raise ConfigError(
            f"tracking.uri: MLflow store {uri} does not answer ({_first_line(error)}). Start it, "
            "correct the URI, or set tracking.enabled to false in the environment."
        ) from error


def _configure() -> None:
    """Set what MLflow reads when it is imported, where the user has not."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Its own patience, some minutes for each request, would hold up training.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for chatter in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(chatter).setLevel(logging.WARNING)


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    if path := sqlite_path(uri):
        path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # MLflow's tables use a SQLAlchemy option that SQLAlchemy 2.1 deprecates.
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy")
        return MlflowClient(tracking_uri=uri)


def _experiment_id(client: MlflowClient, section: TrackingSection) -> str:
    found = client.get_experiment_by_name(section.experiment)
    if found is not None:
        return str(found.experiment_id)
    path = sqlite_path(section.uri)
    # By default artifacts of a SQLite store go below the working folder; keep them beside it.
    artifacts = (path.parent / "artifacts").absolute().as_uri() if path else None
    return client.create_experiment(section.experiment, artifact_location=artifacts)


def _continued(client: MlflowClient, run_id: str | None) -> str | None:
    """Return `run_id` with its run open again, or None when the store no longer has it."""
    from mlflow.exceptions import RESOURCE_DOES_NOT_EXIST, ErrorCode, MlflowException

    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return None
        raise
    if run.info.lifecycle_stage != "active":
        return None
    client.update_run(run_id, status="RUNNING")
    return run_id


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    flat = [Param(_name(key), str(value)[:_VALUE_LENGTH]) for key, value in _flat(params)]
    for start in range(0, len(flat), _PARAMETERS_PER_REQUEST):
        client.log_batch(run_id, params=flat[start : start + _PARAMETERS_PER_REQUEST])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _name(key: str) -> str:
    """Return `key` in the characters and length that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", key.replace("@", "_at_"), flags=re.ASCII)[-_NAME_LENGTH:]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
