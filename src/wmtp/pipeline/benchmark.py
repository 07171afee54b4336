"""The benchmark of an evaluation: from settings to tasks, and to what judges them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp.config.environment import SandboxSection
from wmtp.config.load import Document, load_document
from wmtp.config.protocols import PROTOCOLS, Protocol
from wmtp.config.recipe import EvaluationSection, Recipe
from wmtp.errors import ConfigError, DataError
from wmtp.evaluation.answers import AnswerJudge
from wmtp.evaluation.benchmark import Benchmark, Task
from wmtp.registry import BENCHMARKS
from wmtp.run_folder import RunFolder, model_folder
from wmtp.sandbox import Sandbox

# In place of a registered benchmark: the held-out loss, which draws nothing.
LOSS = "loss"


@dataclass(frozen=True)
class Chosen:
    """Checked settings of an evaluation, and the `tasks` of their benchmark within the limit."""

    section: EvaluationSection
    protocol: Protocol
    benchmark: Benchmark[Any]
    tasks: list[Task]

    @property
    def name(self) -> str:
        """The registered name of the benchmark."""
        return str(self.section.benchmark)

    @property
    def max_new_tokens(self) -> int:
        """The bound of a completion."""
        return self.section.max_new_tokens or self.benchmark.max_new_tokens

    def judge(self, section: SandboxSection) -> Sandbox | AnswerJudge:
        """Return what gives verdicts, to be closed; no isolation is a `SandboxError`."""
        if self.benchmark.compares_answers:
            return AnswerJudge(section.workers)
        return Sandbox(section.mode, section.workers)


def evaluation_document(
    checkpoint: Path | None,
    benchmark: str | None,
    data: str | None,
    protocol: str | None,
    overrides: Iterable[str],
) -> Document:
    """Return the evaluation settings: those of the run's recipe, then the command line's.

    A recipe whose benchmark is another one gives nothing. A checkpoint without a model is a
    `CheckpointError`.
    """
    settings: dict[str, Any] = {}
    if (
        checkpoint is not None
        and model_folder(checkpoint)
        and RunFolder(checkpoint).recipe.is_file()
    ):
        recipe = load_document(RunFolder(checkpoint).recipe).validate(Recipe)
        if benchmark in (None, recipe.evaluation.benchmark):
            settings = recipe.evaluation.model_dump(exclude_unset=True)
    given = {"benchmark": benchmark, "path": data, "protocol": protocol}
    settings |= {key: value for key, value in given.items() if value is not None}
    if settings.get("benchmark") is None:
        raise ConfigError(
            f"--benchmark is missing. Known: {', '.join([*BENCHMARKS.names(), LOSS])}."
        )
    document = Document("evaluation", settings)
    document.override(overrides)
    return document


def choose(document: Document) -> Chosen:
    """Return what the settings of an evaluation choose; no task is a `DataError`."""
    section = document.validate(EvaluationSection)
    protocol = PROTOCOLS[section.protocol]
    for name, value in protocol.benchmark_settings.get(str(section.benchmark), {}).items():
        if document.data.setdefault(name, value) != value:
            raise ConfigError(
                f"{document.where((name,))}: the protocol {section.protocol} fixes {name} at {value} for "
                f"{section.benchmark}. Leave it out, or choose another protocol."
            )
    section = document.validate(EvaluationSection)
    named = BENCHMARKS.get(str(section.benchmark))
    benchmark = named(document.validate_options(section, named.Config, ()))
    tasks = benchmark.tasks()[: section.limit]
    if not tasks:
        raise DataError(f"{section.benchmark}: no task with these settings. Ask for more problems.")
    return Chosen(section, protocol, benchmark, tasks)
