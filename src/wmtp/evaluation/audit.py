"""Do the weights point at the truth? Scores of token weights against known faults.

A good weight is *low* at a fault: a program's faulty tokens should weigh less than its other tokens.
Tokens of one weight are in no order, so every score is the expected one over all orders of them. That
makes the scores of constant weights the chance level.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import TypeAlias

import numpy as np

from wmtp.data.encode import Encoded
from wmtp.evaluation.metrics import Interval, auc, clustered_interval


@dataclass(frozen=True, eq=False)
class Program:
    """One faulty program: `weights [T]` of its tokens and which of them are faults, `fault [T]` bool.

    At least one token is a fault and at least one is not. task_id: its problem, the unit of
    resampling.
    """

    task_id: str
    weights: np.ndarray
    fault: np.ndarray

    def __post_init__(self) -> None:
        assert self.weights.shape == self.fault.shape
        assert 0 < self.fault.sum() < len(self.fault)


# The program of one example under each head.
HeadPrograms: TypeAlias = list["Program | None"]


def auroc(program: Program) -> float:
    """Return the chance that a fault weighs less than another token of the program; ties count half.

    1 where all faults weigh less than all else, 0.5 for constant weights.
    """
    return auc(-program.weights, program.fault)


def top(program: Program, k: int) -> float:
    """Return the chance that a fault is among the `k` tokens of lowest weight (all, if there are fewer)."""
    certain, drawn, tied, tied_faults = _lowest(program, k)
    if certain:
        return 1.0
    return 1.0 - comb(tied - tied_faults, drawn) / comb(tied, drawn)


def precision(program: Program) -> float:
    """Return the expected share of faults among the n lowest weights of a program with n faults."""
    k = int(program.fault.sum())
    certain, drawn, tied, tied_faults = _lowest(program, k)
    return (certain + drawn * tied_faults / tied) / k


def _lowest(program: Program, k: int) -> tuple[int, int, int, int]:
    """Return what the k lowest weights are made of.

    Faults that are certainly among them; how many are drawn from those that tie at the k-th weight,
    at least one; how many tie there, and how many of those are faults.
    """
    k = min(k, len(program.weights))
    bound = np.partition(program.weights, k - 1)[k - 1]
    below, at = program.weights < bound, program.weights == bound
    certain, tied_faults = (int(program.fault[where].sum()) for where in (below, at))
    return certain, k - int(below.sum()), int(at.sum()), tied_faults


SCORES: dict[str, Callable[[Program], float]] = {
    "auroc": auroc,
    "top_1": lambda program: top(program, 1),
    "top_5": lambda program: top(program, 5),
    "precision": precision,
}


def audit_scores(programs: Sequence[Program], num_resamples: int = 2000) -> dict[str, Interval]:
    """Return every score: the mean over problems of the mean over their programs, with its interval.

    Intervals are bootstrapped over problems (`clustered_interval`).
    """
    found = {}
    for name, score in SCORES.items():
        by_task: dict[str, list[float]] = defaultdict(list)
        for program in programs:
            by_task[program.task_id].append(score(program))
        means = [float(np.mean(scores)) for scores in by_task.values()]
        found[name] = clustered_interval(means, num_resamples=num_resamples)
    return found


def head_programs(item: Encoded, values: np.ndarray, end_token: bool = False) -> HeadPrograms:
    """Return the program of an example for each head, given `values [S,H]` of its tokens, NaN for none.

    Its tokens are those of the completion's text, and with `end_token` the one that follows it. None for a
    head whose targets are not both faults and others.
    """
    places = item.completion.nonzero()[0]
    places = places[: len(places) - item.num_tail + end_token]
    found: HeadPrograms = []
    for head in range(values.shape[1]):
        known = places[~np.isnan(values[places, head])]
        fault = item.fault[known]
        both = fault.any() and not fault.all()
        found.append(Program(item.example.task_id, values[known, head], fault) if both else None)
    return found


def scores_by_head(programs: dict[str, list[HeadPrograms]]) -> dict[str, dict[str, Interval]]:
    """Return the scores of each signal in `programs`, keyed "SIGNAL/head_K", and "chance/head_K".

    Heads without a program are left out.
    """
    found: dict[str, dict[str, Interval]] = {}
    for signal, per_example in programs.items():
        for head, of_head in enumerate(zip(*per_example, strict=True)):
            chosen = [program for program in of_head if program is not None]
            if chosen:
                found[f"{signal}/head_{head}"] = audit_scores(chosen)
                found[f"chance/head_{head}"] = audit_scores([_constant(p) for p in chosen], 0)
    return found


def _constant(program: Program) -> Program:
    return Program(program.task_id, np.zeros(len(program.weights)), program.fault)
