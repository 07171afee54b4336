"""Reads run folders: what a training run and its evaluations left behind.

Only `run.json` is required; every other file may be absent, and what is absent is empty here. A
file that is there but malformed is a `DataError` that names it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from wmtp.config import yaml_text
from wmtp.errors import ConfigError, DataError
from wmtp.inputs import numbered_jsonl, read_json_object

T = TypeVar("T")
Count = Annotated[int, Field(ge=0)]
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval and the number of units behind it, as far as known."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one sample: `passed`, `failed`, `timeout`, ...; `detail` is not trusted."""

    task_id: str
    outcome: str
    sample_id: int | str = 0
    seconds: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion that was judged: hostile text."""

    task_id: str
    completion: str
    sample_id: int | str = 0
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class HeadRow:
    """What a head does with n targets of a held-out set."""

    n: Count
    ce: float
    top1: float
    top5: float
    calibration_error: float


@dataclass(frozen=True, slots=True)
class HeadRows:
    """What a head does with all targets, and with those of each group."""

    all: HeadRow
    position: dict[str, HeadRow] = field(default_factory=dict)
    token_class: dict[str, HeadRow] = field(default_factory=dict)
    difficulty: dict[str, HeadRow] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One benchmark's results for one run: `report.json` and the two line files beside it."""

    metrics: dict[str, Estimate]
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    outcome_counts: dict[str, int] = field(default_factory=dict)
    by_difficulty: dict[str, Estimate] = field(default_factory=dict)
    sandbox: str | None = None
    extraction: str | None = None
    per_head: dict[str, HeadRows] = field(default_factory=dict)
    outcomes: tuple[Outcome, ...] = ()
    samples: tuple[Sample, ...] = ()

    def pass_rates(self) -> dict[str, float]:
        """Return the share of passed samples of each task: unbiased for pass@1."""
        passed: dict[str, list[bool]] = {}
        for outcome in self.outcomes:
            passed.setdefault(outcome.task_id, []).append(outcome.outcome == "passed")
        return {task: sum(results) / len(results) for task, results in passed.items()}


@dataclass(frozen=True, slots=True)
class WeighedSample:
    """One training sample and the weight of each completion token as a target of each head.

    tokens: T strings. weights: T x H, None where a head has no such target. fault: T, whether a
    mutation changed the token.
    """

    task_id: str
    reward: float | None
    tokens: list[str]
    weights: list[list[float | None]]
    fault: list[bool]
    prompt: str = ""

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.weights) == len(self.fault):
            raise ValueError(
                f"{len(self.tokens)} tokens, {len(self.weights)} weights and {len(self.fault)} "
                "fault marks; expected one of each per token"
            )


@dataclass(frozen=True, slots=True)
class Summary:
    """`run.json`: what was trained and what it cost.

    tokens: trained tokens without padding. flops: training FLOPs, the reference's and critic's
    (`extra_flops`) included.
    """

    name: str
    algorithm: str
    seed: int
    status: str
    steps: Count
    tokens: Count
    flops: Size | None = None
    extra_flops: dict[str, float] = field(default_factory=dict)
    seconds: Size | None = None
    peak_memory_bytes: Count | None = None
    num_parameters: Count | None = None
    num_heads: Count | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder, validated. metrics: one dictionary per logging event, in file order."""

    path: Path
    summary: Summary
    recipe: dict[str, Any]
    settings_text: dict[str, str]
    provenance: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]
    weighed_samples: tuple[WeighedSample, ...]
    evaluations: dict[str, Evaluation]

    def curve(self, key: str) -> list[tuple[float, float]]:
        """Return (trained tokens, value) of every logged value of `key`."""
        return [
            (event["tokens"], event[key])
            for event in self.metrics
            if isinstance(event.get(key), int | float) and math.isfinite(event[key])
        ]

    def last(self, key: str) -> float | None:
        """Return the last logged value of `key`, or None."""
        curve = self.curve(key)
        return curve[-1][1] if curve else None

    def held_out(self, name: str) -> list[float]:
        """Return the last held-out `name` ("ce", "accuracy") of heads 0, 1, ... that have one."""
        values: list[float] = []
        while (value := self.last(f"eval/{name}/head_{len(values)}")) is not None:
            values.append(value)
        return values


def load_run(path: str | Path) -> Run:
    """Return the run in the folder `path`; a folder that is no run is a `DataError`."""
    path = Path(path)
    if not (path / "run.json").is_file():
        found = "has no run.json" if path.is_dir() else "is not a folder"
        raise DataError(
            f"{path}: not a finished run, it {found}. Give a folder that `wmtp train` wrote; "
            "an interrupted run is finished by the same command with --resume."
        )
    weights = path / "weights.json"
    reports = sorted(path.glob("evaluation/*/report.json"))
    return Run(
        path=path,
        summary=_read(path / "run.json", Summary),
        recipe=_read_recipe(path / "recipe.yaml"),
        settings_text={
            name: (path / name).read_text("utf-8", errors="replace")
            for name in ("recipe.yaml", "environment.yaml")
            if (path / name).is_file()
        },
        provenance=_read_optional(path / "provenance.json"),
        metrics=tuple(_read_metrics(path / "metrics.jsonl")),
        weighed_samples=_read_weighed(weights) if weights.is_file() else (),
        evaluations={report.parent.name: load_evaluation(report.parent) for report in reports},
    )


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _validate(value: Any, kind: type[T], where: str) -> T:
    """Return `value` as `kind`; the first thing wrong with it is a `DataError`."""
    try:
        return cast(T, _adapter(cast(Any, kind)).validate_python(value))
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{where}: {location + ': ' if location else ''}{first['msg']}. The file does not have "
            "the form that this version writes; write it again or remove it."
        ) from error


def _read(path: Path, kind: type[T]) -> T:
    return _validate(read_json_object(path), kind, str(path))


def _read_optional(path: Path) -> dict[str, Any]:
    return _read(path, dict[str, Any]) if path.is_file() else {}


def _read_lines(path: Path, kind: type[T]) -> list[T]:
    if not path.is_file():
        return []
    return [_validate(record, kind, f"{path}:{number}") for number, record in numbered_jsonl(path)]


def _read_recipe(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        parsed = yaml_text.parse(path.read_text("utf-8"), str(path), substitute=False)
    except (ConfigError, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, ConfigError) else f"{path}: not UTF-8 text."
        raise DataError(f"{reason} Mend or remove this file.") from error
    if parsed.problems:
        raise DataError(f"{parsed.problems[0]} Mend or remove this file.")
    return _validate(parsed.data, dict[str, Any], str(path))


@dataclass(frozen=True, slots=True)
class _Event:
    step: Count
    tokens: Size


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    events = []
    for number, record in numbered_jsonl(path):
        _validate(record, _Event, f"{path}:{number}")
        events.append(record)
    return events


@dataclass(frozen=True, slots=True)
class _WeightsFile:
    samples: tuple[WeighedSample, ...]


def _read_weighed(path: Path) -> tuple[WeighedSample, ...]:
    return _read(path, _WeightsFile).samples


def load_evaluation(folder: Path) -> Evaluation:
    """Return the evaluation in `folder`: its `report.json` and the line files beside it."""
    path = folder / "report.json"
    record = _read(path, dict[str, Any])
    metrics = _validate(record.get("metrics"), dict[str, float | Estimate | None], str(path))
    return _validate(
        {
            **record,
            "metrics": {
                name: metric if isinstance(metric, Estimate) else Estimate(metric)
                for name, metric in metrics.items()
                if metric is not None
            },
            "outcome_counts": record.get("outcomes", {}),
            "by_difficulty": record.get("by_difficulty") or {},
            "outcomes": _read_lines(path.with_name("outcomes.jsonl"), Outcome),
            "samples": _read_lines(path.with_name("samples.jsonl"), Sample),
        },
        Evaluation,
        str(path),
    )


def load_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Return the runs in `paths`; none at all, or one folder given twice, is a `DataError`."""
    if not paths:
        raise DataError("no run to report on. Give one or more run folders.")
    resolved = [Path(path).resolve() for path in paths]
    for path in resolved:
        if resolved.count(path) > 1:
            raise DataError(f"{path}: given twice. Give each run folder once.")
    return [load_run(path) for path in paths]
