"""Two models on the same tasks of one benchmark: the difference in pass@k, and whether it is noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wmtp.errors import DataError
from wmtp.evaluation.judge import read_samples
from wmtp.evaluation.metrics import Interval, mcnemar_exact, paired_difference, pass_at_k

KS = (1, 10, 100)


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """What two evaluations say on their T common tasks.

    differences: by k, the mean of pass@k of the first minus that of the second, bootstrapped over
    tasks. p_value: McNemar's exact test, None unless each has one sample per task.
    """

    num_tasks: int
    differences: dict[int, Interval]
    p_value: float | None

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        differences = {f"pass@{k}": asdict(found) for k, found in self.differences.items()}
        return {"num_tasks": self.num_tasks, "differences": differences, "p_value": self.p_value}

    def lines(self) -> list[str]:
        """Return the same for people."""
        shown = [
            f"  pass@{k:<8} {d.value:+.4f}  [{d.low:+.4f}, {d.high:+.4f}]  n = {d.n}"
            for k, d in self.differences.items()
        ]
        if self.p_value is not None:
            shown.append(f"  McNemar       p = {self.p_value:.4g}")
        return shown


def is_evaluation(folder: Path) -> bool:
    """Return whether `folder` is an evaluation's and not a run's."""
    return (folder / "outcomes.jsonl").is_file() and not (folder / "run.json").exists()


def compare_evaluations(
    first: Path, second: Path, ks: Sequence[int] | None = None
) -> PairedComparison:
    """Return the comparison of the outcomes in two folders; others tasks in each are a `DataError`.

    ks: default 1, 10 and 100, as far as every task of both has as many samples; a k that any lacks is
    an error.
    """
    ours, theirs = _solved(first), _solved(second)
    if ours.keys() != theirs.keys():
        extra = sorted(ours.keys() ^ theirs.keys())
        raise DataError(
            f"{first} and {second}: not the same tasks; {len(extra)} are in one of them only, such as "
            f"{extra[0]}. Compare evaluations on one benchmark with the same settings."
        )
    tasks = sorted(ours)
    fewest = min(len(side[task]) for side in (ours, theirs) for task in tasks)
    chosen = [k for k in KS if k <= fewest] if ks is None else ks

    def rates(side: dict[str, list[bool]], k: int) -> list[float]:
        return [pass_at_k(len(side[task]), sum(side[task]), k) for task in tasks]

    single = all(len(side[task]) == 1 for side in (ours, theirs) for task in tasks)
    return PairedComparison(
        num_tasks=len(tasks),
        differences={k: paired_difference(rates(ours, k), rates(theirs, k)) for k in chosen},
        p_value=mcnemar_exact(rates(ours, 1), rates(theirs, 1)) if single else None,
    )


def _solved(folder: Path) -> dict[str, list[bool]]:
    """Return whether each sample of each task passed."""
    found: dict[str, list[bool]] = {}
    path = folder / "outcomes.jsonl"
    for record in read_samples(path, ("task_id", "outcome")):
        found.setdefault(record["task_id"], []).append(record["outcome"] == "passed")
    if not found:
        raise DataError(f"{path}: there are no outcomes. Give the folder of a finished evaluation.")
    return found
