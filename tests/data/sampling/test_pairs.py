"""Length does not give the incorrect completions away."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp.data.sampling.pairs import length_auc, length_pairs
from wmtp.evaluation.metrics import auc

SAMPLES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 12), st.booleans()), min_size=1, max_size=40
)


def arrays(samples: list[tuple[int, int, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tasks, lengths, wrong = (np.array(column) for column in zip(*samples, strict=True))
    return tasks, lengths, wrong


@given(SAMPLES, st.sampled_from([1.0, 1.25, 2.0, 100.0]))
@settings(max_examples=80)
def test_pairs_fit_and_no_sample_is_in_two(samples, ratio: float) -> None:
    tasks, lengths, wrong = arrays(samples)
    pairs = length_pairs(tasks, lengths, wrong, ratio)
    assert len(set(pairs.ravel().tolist())) == pairs.size
    right_of, wrong_of = pairs.T
    assert not wrong[right_of].any()
    assert wrong[wrong_of].all()
    assert (tasks[right_of] == tasks[wrong_of]).all()
    both = np.sort(lengths[pairs], axis=1)
    assert (both[:, 1] <= ratio * both[:, 0]).all()
    difference = np.sort(lengths[wrong_of] - lengths[right_of])
    assert difference.tolist() == sorted(-difference)
    again = length_pairs(tasks, lengths, wrong, ratio)
    assert pairs.tolist() == again.tolist()


@given(SAMPLES)
@settings(max_examples=100)
def test_all_samples_of_equal_length_are_paired(samples) -> None:
    tasks, lengths, wrong = arrays(samples)
    want = 0
    for key in set(zip(tasks.tolist(), lengths.tolist(), strict=True)):
        of_key = wrong[(tasks == key[0]) & (lengths == key[1])]
        want += min(int(of_key.sum()), int((~of_key).sum()))
    assert len(length_pairs(tasks, lengths, wrong, 1.0)) == want


def test_nearest_first() -> None:
    lengths = np.array([10, 14, 13, 30, 29, 100])
    wrong = np.array([False, False, True, False, True, True])
    pairs = length_pairs(np.zeros(6, dtype=int), lengths, wrong, 2.0)
    assert sorted(pairs.tolist()) == []  # both differences have one sign: given up
    lengths[2] = 15
    assert sorted(length_pairs(np.zeros(6, dtype=int), lengths, wrong, 2.0).tolist()) == [
        [1, 2],
        [3, 4],
    ]


@given(SAMPLES)
@settings(max_examples=100)
def test_auc_is_that_of_all_comparisons(samples) -> None:
    tasks, lengths, wrong = arrays(samples)
    for groups in (None, tasks):
        wins, compared = 0.0, 0
        for i in np.flatnonzero(wrong):
            for j in np.flatnonzero(~wrong):
                if groups is None or groups[i] == groups[j]:
                    wins += (lengths[i] > lengths[j]) + 0.5 * (lengths[i] == lengths[j])
                    compared += 1
        found = length_auc(lengths, wrong, groups)
        assert math.isnan(found) if not compared else found == pytest.approx(wins / compared)
    if 0 < wrong.sum() < len(wrong):
        assert length_auc(lengths, wrong) == pytest.approx(auc(lengths, wrong))


def test_nothing_to_compare() -> None:
    none = np.empty(0, dtype=int)
    assert math.isnan(length_auc(none, none.astype(bool)))
    assert length_pairs(none, none, none.astype(bool), 2.0).shape == (0, 2)


@pytest.mark.parametrize("ratio", [1.05, 1.1])
def test_strong_differences_in_length_go(ratio: float) -> None:
    """Incorrect programs twice as long, and three tokens longer in small tasks."""
    rng = np.random.default_rng(0)
    wrong = rng.random(4000) < 0.5
    long = np.exp(rng.normal(4, 0.5, 4000) + 0.7 * wrong).astype(int)
    small = np.maximum(1, rng.normal(40, 6, 4000) + 3 * wrong).astype(int)
    for lengths, tasks, least in (
        (long, rng.integers(0, 20, 4000), 800),
        (small, rng.integers(0, 800, 4000), 500),
    ):
        assert length_auc(lengths, wrong, tasks) > 0.6
        drawn = length_pairs(tasks, lengths, wrong, ratio).ravel()
        assert len(drawn) > 2 * least
        assert abs(length_auc(lengths[drawn], wrong[drawn]) - 0.5) < 0.01
        assert abs(length_auc(lengths[drawn], wrong[drawn], tasks[drawn]) - 0.5) < 0.02


def test_real_student_programs(shared_data: Path) -> None:
    lines = (shared_data / "refactory" / "submissions_dev.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    numbers = {record["task_id"]: 0 for record in records}
    numbers = {task: i for i, task in enumerate(numbers)}
    tasks = np.array([numbers[record["task_id"]] for record in records])
    lengths = np.array([len(record["code"]) // 3 for record in records])
    wrong = np.array([record["label"] == "wrong" for record in records])
    drawn = length_pairs(tasks, lengths, wrong, 1.1).ravel()
    assert len(drawn) > 1.6 * wrong.sum()
    assert abs(length_auc(lengths[drawn], wrong[drawn]) - 0.5) < 0.005
    assert abs(length_auc(lengths[drawn], wrong[drawn], tasks[drawn]) - 0.5) < 0.005
