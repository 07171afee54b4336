"""From easy to hard."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wmtp.config.data_sections import CurriculumSection
from wmtp.data.sampling.curriculum import GrowingPasses, competence


@pytest.mark.parametrize(
    ("schedule", "progress", "want"),
    [
        ("linear", 0.0, 0.2),
        ("linear", 0.25, 0.6),
        ("sqrt", 0.0, 0.2),
        ("sqrt", 0.25, math.sqrt(0.04 + 0.96 / 2)),
        ("step", 0.49, 0.2),
        ("none", 0.0, 1.0),
        *((schedule, 0.5, 1.0) for schedule in ("linear", "sqrt", "step", "none")),
        *((schedule, 1.0, 1.0) for schedule in ("linear", "sqrt", "step", "none")),
    ],
)
def test_competence_by_hand(schedule: str, progress: float, want: float) -> None:
    section = CurriculumSection(schedule=schedule, start=0.2, end_share=0.5)
    assert competence(section, progress) == pytest.approx(want)
    assert competence(None, progress) == 1.0


def test_only_the_easiest_are_open_and_passes_stay_whole() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.permutation(50).astype(float)
    passes = GrowingPasses(np.arange(50), difficulty, rng)
    drawn = []
    for step in range(25):  # one pass: 2 drawn, 4 opened at a time
        taken = passes.take(2, min(1.0, 0.1 + 0.08 * step))
        assert difficulty[taken].max() < 5 + 4 * step
        drawn += taken.tolist()
    assert sorted(drawn) == list(range(50))
    assert sorted(passes.take(50, 1.0)) == list(range(50))


def test_what_is_open_is_dealt_again_when_it_has_been_dealt() -> None:
    rng = np.random.default_rng(0)
    passes = GrowingPasses(np.arange(10), np.arange(10.0), rng)
    assert sorted(passes.take(4, 0.2)) == [0, 0, 1, 1]
    assert passes.take(0, 0.2).tolist() == []
    assert sorted(passes.take(3, 0.5)) == [2, 3, 4]
    assert sorted(passes.take(10, 0.5)) == sorted([*range(5)] * 2)
    assert passes.take(1, 0.0001).tolist()[0] < 5  # what was opened stays open


def test_equal_difficulties_open_one_by_one_at_random() -> None:
    firsts = {
        int(
            GrowingPasses(np.arange(20), np.zeros(20), np.random.default_rng(seed)).take(1, 0.01)[0]
        )
        for seed in range(20)
    }
    assert len(firsts) > 5


def test_pairs_stay_together() -> None:
    pairs = np.array([[0, 5], [1, 6], [2, 7]])
    passes = GrowingPasses(pairs, np.array([3.0, 1.0, 2.0]), np.random.default_rng(0))
    assert passes.take(1, 0.3).tolist() == [[1, 6]]
    assert sorted(passes.take(2, 1.0).tolist()) == [[0, 5], [2, 7]]
