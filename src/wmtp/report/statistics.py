"""Intervals over seeds, and over seeds and tasks together, for few seeds.

Resampling three seeds draws intervals that are too narrow: the variance is short by a third, and
the quantiles are normal instead of Student's. So three or more seeds get Student intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """A mean with its 95 % interval, the p-value of "the mean is 0" and its n (units behind it)."""

    value: float
    low: float
    high: float
    p_value: float
    n: int


def student_tail(statistic: float, degrees: float) -> float:
    """Return P(|T| > |statistic|) for Student's T with `degrees` > 0 of freedom.

    With T = sqrt(degrees) tan(a) the density of the angle a is proportional to
    cos(a)^(degrees - 1), which is smooth and bounded for degrees >= 1.
    """
    upper, lower = _angle_integral(degrees)
    angle = math.atan(abs(statistic) / math.sqrt(degrees))
    return float(np.interp(angle, upper, lower))


def student_quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """Return t with P(|T| <= t) = confidence for Student's T with `degrees` of freedom."""
    angles, tails = _angle_integral(degrees)
    angle = np.interp(1 - confidence, tails[::-1], angles[::-1])
    return math.sqrt(degrees) * math.tan(float(angle))


def _angle_integral(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Return angles in [0, pi/2] and the two-sided tail probability beyond each."""
    angles = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(angles) ** (degrees - 1)
    steps = (density[1:] + density[:-1]) / 2
    below = np.concatenate([[0.0], np.cumsum(steps)])
    return angles, 1 - below / below[-1]


def mean_over_seeds_and_tasks(values: np.ndarray) -> MeanEstimate:
    """Return the mean of `values` [S seeds, T tasks] for new seeds and new tasks; S >= 2.

    Two-way random effects: Var = (MS_seed + MS_task - MS_residual) / (S T), never below its larger
    part, with Satterthwaite's degrees of freedom (Satterthwaite 1946, Biometrics Bulletin 2(6)).
    T = 1 gives the Student interval over seeds, for metrics that are one number per run. Values without
    any variation say nothing about their error: the interval has no width then and p is 1.
    """
    num_seeds, num_tasks = values.shape
    mean = float(values.mean())
    by_seed, by_task = values.mean(axis=1), values.mean(axis=0)
    seed = float(by_seed.var(ddof=1)) / num_seeds
    task = residual = 0.0
    if num_tasks > 1:
        rest = values - by_seed[:, None] - by_task + mean
        freedom = (num_seeds - 1) * (num_tasks - 1)
        task = float(by_task.var(ddof=1)) / num_tasks
        residual = float((rest**2).sum()) / (freedom * values.size)
    variance = max(seed + task - residual, seed, task)
    if variance <= (1e-12 * max(1.0, float(np.abs(values).max()))) ** 2:
        return MeanEstimate(mean, mean, mean, 1.0, values.size)
    spread = seed**2 / (num_seeds - 1)
    if num_tasks > 1:
        spread += task**2 / (num_tasks - 1) + residual**2 / freedom
    degrees = max(1.0, variance**2 / spread)
    error = math.sqrt(variance)
    half = student_quantile(degrees) * error
    p_value = student_tail(mean / error, degrees)
    return MeanEstimate(mean, mean - half, mean + half, p_value, values.size)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for testing all of them (Holm 1979), in the given order."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted
