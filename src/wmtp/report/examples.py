"""Picks outcomes to show: counts by kind, and a few samples of each kind per algorithm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wmtp.report.runs import Evaluation, Outcome, Sample

if TYPE_CHECKING:
    from wmtp.report.compare import Comparison

# Longer texts are cut, so that one endless completion does not make the page endless.
_LONGEST = 20_000
# How many samples of each kind are shown.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Example:
    """One judged sample, its texts cut to a length that a page can hold."""

    task_id: str
    sample_id: int | str
    outcome: str
    prompt: str
    completion: str
    detail: str


@dataclass(frozen=True, slots=True)
class OutcomeSection:
    """One algorithm's outcomes on one benchmark: (kind, count, share) and examples to open."""

    benchmark: str
    label: str
    counts: list[tuple[str, int, float]]
    examples: list[Example]


def outcome_sections(comparison: Comparison) -> list[OutcomeSection]:
    """Return the outcomes of every benchmark and group, counted over all seeds."""
    sections = []
    for benchmark in comparison.benchmarks:
        for group in comparison.groups:
            evaluations = [
                run.evaluations[benchmark] for run in group.runs if benchmark in run.evaluations
            ]
            if any(evaluation.outcome_counts for evaluation in evaluations):
                sections.append(outcome_section(benchmark, group.label, evaluations))
    return sections


def outcome_section(
    benchmark: str, label: str, evaluations: Sequence[Evaluation], shown: int = _SHOWN
) -> OutcomeSection:
    """Return the outcomes of all evaluations, with `shown` examples of each kind from the first."""
    counts: Counter[str] = Counter()
    for evaluation in evaluations:
        counts.update(evaluation.outcome_counts)
    kinds = sorted((kind for kind in counts if counts[kind]), key=lambda kind: -counts[kind])
    kinds.sort(key=lambda kind: kind != "passed")
    shares = [(kind, counts[kind], counts[kind] / counts.total()) for kind in kinds]
    return OutcomeSection(benchmark, label, shares, list(_examples(evaluations[0], kinds, shown)))


def _examples(evaluation: Evaluation, kinds: list[str], shown: int) -> Iterator[Example]:
    """Yield the first samples of each kind, one of every task before another of any."""
    samples = {(sample.task_id, sample.sample_id): sample for sample in evaluation.samples}
    for kind in kinds:
        turns: Counter[str] = Counter()
        found = []
        for outcome in evaluation.outcomes:
            if outcome.outcome == kind and (outcome.task_id, outcome.sample_id) in samples:
                found.append((turns[outcome.task_id], outcome))
                turns[outcome.task_id] += 1
        for _, outcome in sorted(found, key=lambda pair: pair[0])[:shown]:
            yield _example(outcome, samples[outcome.task_id, outcome.sample_id])


def _example(outcome: Outcome, sample: Sample) -> Example:
    texts = (sample.prompt, sample.completion, outcome.detail)
    return Example(outcome.task_id, outcome.sample_id, outcome.outcome, *map(_cut, texts))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text):,} characters)"
