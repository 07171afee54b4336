"""Runs grouped by algorithm, and whether the groups may be compared at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from wmtp.errors import DataError
from wmtp.report.runs import Run

BASELINE = "mtp-baseline"
SHUFFLED = "shuffled"
TOKEN_TOLERANCE = 0.01
LONGEST_LABEL = 48  # of settings, which tables and charts have room for


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one algorithm that differ by their seed, in order of seed."""

    label: str
    algorithm: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, ascending; each occurs once."""
        return tuple(run.summary.seed for run in self.runs)

    @property
    def shuffles(self) -> str | None:
        """The algorithm whose weights a `shuffled` group permutes, or None when unknown."""
        scheme = flat_settings(self.runs[0].recipe).get("algorithm.of.name")
        return None if scheme is None else str(json.loads(scheme))

    def mean(self, field: str) -> float | None:
        """Return the mean of a numeric `run.json` field, or None when a run lacks it."""
        values = [getattr(run.summary, field) for run in self.runs]
        return None if None in values else sum(values) / len(values)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Return the runs by algorithm: the baseline first, `shuffled` last, the rest as given.

    Where a seed occurs twice in an algorithm its runs are told apart by their other settings; two
    runs of one recipe and seed are a `DataError`.
    """
    by_algorithm: dict[str, list[Run]] = {}
    for run in runs:
        by_algorithm.setdefault(run.summary.algorithm, []).append(run)
    groups = []
    for algorithm, members in by_algorithm.items():
        if len({run.summary.seed for run in members}) == len(members):
            groups.append(_group(algorithm, algorithm, members))
        else:
            groups.extend(_split(algorithm, members))
    rank = {BASELINE: 0, SHUFFLED: 2}
    return sorted(groups, key=lambda group: rank.get(group.algorithm, 1))


def _group(label: str, algorithm: str, members: Iterable[Run]) -> Group:
    return Group(label, algorithm, tuple(sorted(members, key=lambda run: run.summary.seed)))


def _split(algorithm: str, members: list[Run]) -> list[Group]:
    """Return one group per recipe, labelled by the settings in which the recipes differ.

    Where these are many, the label is the name of the runs, as far as names tell the groups apart.
    """
    differing = differing_settings(run.recipe for run in members)
    by_settings: dict[str, list[Run]] = {}
    for run in members:
        settings = flat_settings(run.recipe)
        chosen = ", ".join(
            f"{key.split('.')[-1]}={settings.get(key, 'default')}" for key in differing
        )
        by_settings.setdefault(chosen, []).append(run)
    for same in by_settings.values():
        seeds = [run.summary.seed for run in same]
        for first, second in pairwise(sorted(same, key=lambda run: run.summary.seed)):
            if first.summary.seed == second.summary.seed:
                raise DataError(
                    f"{first.path} and {second.path}: the same recipe of {algorithm} with the same "
                    f"seed (seeds: {seeds}). Give one of them."
                )
    labels = [f"{algorithm} ({chosen})" for chosen in by_settings]
    names = [sorted({_arm(run) for run in same}) for same in by_settings.values()]
    distinct = len({name for own in names for name in own}) == len(names)
    if distinct and all(len(own) == 1 for own in names) and max(map(len, labels)) > LONGEST_LABEL:
        labels = [name for [name] in names]
    return [
        _group(label, algorithm, same)
        for label, same in zip(labels, by_settings.values(), strict=True)
    ]


def _arm(run: Run) -> str:
    """Return the name of a run without its seed, as suites name them."""
    return run.summary.name.removesuffix(f"-seed-{run.summary.seed}")


def reference_group(group: Group, groups: Sequence[Group], algorithm: str) -> Group | None:
    """Return the group of `algorithm` to compare `group` with, its own shuffle first, or None."""
    candidates = [found for found in groups if found.algorithm == algorithm]
    own = [found for found in candidates if found.shuffles == group.algorithm]
    return next(iter(own or candidates), None)


def flat_settings(recipe: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return `{"a.b": JSON of the value}` of a nested recipe."""
    flat: dict[str, str] = {}
    for key, value in recipe.items():
        if isinstance(value, dict):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, default=str)
    return flat


def differing_settings(
    settings: Iterable[dict[str, Any]], ignore: tuple[str, ...] = ("name", "seed")
) -> list[str]:
    """Return the dotted keys in which settings differ; `ignore` lists top-level keys to leave out.

    Empty settings were not recorded and differ from nothing.
    """
    recipes = [flat_settings(recipe) for recipe in settings if recipe]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    return [
        key
        for key in keys
        if key.split(".")[0] not in ignore and len({recipe.get(key) for recipe in recipes}) > 1
    ]


@dataclass(frozen=True, slots=True)
class Budget:
    """Trained tokens per group (mean over seeds), and whether all runs agree within 1 %."""

    tokens: dict[str, float]
    matched: bool


def token_budget(groups: Sequence[Group]) -> Budget:
    """Return the token budgets and whether the largest is within 1 % of the smallest."""
    counts = [run.summary.tokens for group in groups for run in group.runs]
    return Budget(
        tokens={
            group.label: sum(r.summary.tokens for r in group.runs) / len(group.runs)
            for group in groups
        },
        matched=max(counts) <= (1 + TOKEN_TOLERANCE) * min(counts),
    )


def tokens_to_reach(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Return the tokens at which `curve`, of (tokens, loss), first is at or below `target`.

    Linear between measurements; None when it never is.
    """
    previous: tuple[float, float] | None = None
    for tokens, loss in curve:
        if loss <= target:
            if previous is None:
                return tokens
            start, above = previous
            return start + (tokens - start) * (above - target) / (above - loss)
        previous = (tokens, loss)
    return None
