"""Prepares the heat map: tokens of a few samples, coloured by the weight they had as targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wmtp.report.groups import Group
from wmtp.report.runs import WeighedSample

# Levels -5 (weight 0) to 5 (weight 5 or more); level 0 is a weight near 1 and has no colour.
LEVELS = {level: "abcdefghijk"[level + 5] for level in range(-5, 6)}
_STRONGEST = 5.0


@dataclass(frozen=True, slots=True)
class HeatToken:
    """One token: its lines (a token may hold line breaks), CSS classes and tooltip."""

    lines: list[str]
    classes: str
    title: str


@dataclass(frozen=True, slots=True)
class HeatSample:
    """One sample and its tokens under each algorithm, by label; `note` stands beside its task."""

    task_id: str
    reward: float | None
    prompt: str
    tokens: dict[str, list[HeatToken]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """The samples to show. uniform: labels that weigh every token 1 and are therefore not drawn."""

    num_heads: int
    samples: list[HeatSample]
    uniform: list[str]


def heat_map(groups: Sequence[Group], most: int = 4) -> HeatMap | None:
    """Return up to `most` samples, those that most groups share first; None without any.

    Each group is represented by its run of the lowest seed that recorded weights.
    """
    recorded = {
        group.label: next(r.weighed_samples for r in group.runs if r.weighed_samples)
        for group in groups
        if any(run.weighed_samples for run in group.runs)
    }
    uniform = [label for label, samples in recorded.items() if _is_uniform(samples)]
    by_text: dict[tuple[str, str], dict[str, WeighedSample]] = {}
    for label, samples in recorded.items():
        for sample in samples:
            if label not in uniform:
                key = (sample.task_id, "".join(sample.tokens))
                by_text.setdefault(key, {})[label] = sample
    if not recorded:
        return None
    chosen = _choose(list(by_text.values()), most)
    return HeatMap(_num_heads(chosen), [_heat_sample(views) for views in chosen], uniform)


def heat_map_of(views: Sequence[dict[str, WeighedSample]], notes: Sequence[str]) -> HeatMap:
    """Return all these samples, each by label, with a note each."""
    samples = [_heat_sample(view, note) for view, note in zip(views, notes, strict=True)]
    return HeatMap(_num_heads(views), samples, uniform=[])


def weight_level(weight: float) -> int:
    """Return the colour level of a weight, -5 to 5: logarithmic, 0 at weight 1."""
    if weight <= 0:
        return -5
    level = round(5 * math.log(weight) / math.log(_STRONGEST))
    return max(-4, min(5, level))


def _num_heads(samples: Sequence[dict[str, WeighedSample]]) -> int:
    rows = (len(row) for views in samples for s in views.values() for row in s.weights)
    return max(rows, default=0)


def _is_uniform(samples: Sequence[WeighedSample]) -> bool:
    weights = [w for sample in samples for row in sample.weights for w in row if w is not None]
    return all(abs(weight - 1) < 1e-6 for weight in weights)


def _choose(samples: list[dict[str, WeighedSample]], most: int) -> list[dict[str, WeighedSample]]:
    """Return the samples that most groups share, taking turns between the rewards."""
    turns: dict[float | None, int] = {}

    def rank(views: dict[str, WeighedSample]) -> tuple[int, int]:
        reward = next(iter(views.values())).reward
        turns[reward] = turns.get(reward, 0) + 1
        return -len(views), turns[reward]

    return sorted(samples, key=rank)[:most]


def _heat_sample(views: dict[str, WeighedSample], note: str = "") -> HeatSample:
    first = next(iter(views.values()))
    tokens = {
        label: [
            _heat_token(token, weights, fault)
            for token, weights, fault in zip(s.tokens, s.weights, s.fault, strict=True)
        ]
        for label, s in views.items()
    }
    return HeatSample(first.task_id, first.reward, first.prompt, tokens, note)


def _heat_token(token: str, weights: list[float | None], fault: bool) -> HeatToken:
    classes = [
        f"h{head}{LEVELS[level]}"
        for head, weight in enumerate(weights)
        if weight is not None and (level := weight_level(weight))
    ]
    shown = ", ".join(
        f"head {head}: {'no target' if weight is None else f'{weight:.2f}'}"
        for head, weight in enumerate(weights)
    )
    title = f"{shown} (fault)" if fault else shown
    return HeatToken(token.split("\n"), " ".join([*classes, *(["fault"] * fault)]), title)
