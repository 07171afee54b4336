"""Orders with pairs, a curriculum and a mixture of sources."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import tiny_data
from wmtp.config.data_sections import CurriculumSection
from wmtp.config.recipe import OptimizationSection
from wmtp.data.encode import EncodedSet
from wmtp.data.order import length_leak, training_order, unpaired
from wmtp.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
CURRICULUM = CurriculumSection(schedule="linear", start=0.2, end_share=0.5)


def budget(size: int = 8, **given: float) -> OptimizationSection:
    return OptimizationSection(learning_rate=1e-3, global_batch=size, **given)


def described(num: int = 80, sources: tuple[str, ...] = ("a", "b")) -> EncodedSet:
    """Tasks of two correct and two incorrect samples, half of them from each source."""
    items = []
    for i, item in enumerate(tiny_data(num).items):
        task = i // 4
        example = replace(
            item.example,
            task_id=f"t/{task}",
            difficulty=float(task % 7),
            source=sources[task % len(sources)],
        )
        items.append(replace(item, example=example))
    return EncodedSet(items)


def digest(order: np.ndarray) -> str:
    return hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:16]


def everything_at_once(data: EncodedSet) -> np.ndarray:
    return training_order(
        data,
        budget(steps=30),
        None,
        3,
        max_length_ratio=2.0,
        curriculum=CURRICULUM,
        weights={"a": 0.7, "b": 0.3},
    )


# Recorded before pairs, curricula and mixtures came: runs that began then go on with the same samples.
@pytest.mark.parametrize(
    ("share", "given", "want"),
    [
        (None, {"steps": 40}, "5f6d1d8b1a0bee90"),
        (None, {"epochs": 2.5}, "6e91318b9910f05e"),
        (None, {"tokens": 5000}, "e01314df31625695"),
        (0.0, {"steps": 40}, "25ea27a10950c558"),
        (0.0, {"epochs": 2.5}, "2f62942a85e4c3be"),
        (0.0, {"tokens": 5000}, "99d7bf517f05acdb"),
        (0.35, {"steps": 40}, "6eee2186538e3bf8"),
        (0.35, {"epochs": 2.5}, "1939d59bf68ec8e4"),
        (0.35, {"tokens": 5000}, "5f495fd2f6da8219"),
        (0.5, {"steps": 40}, "1f8e9d022df96bf6"),
        (0.5, {"epochs": 2.5}, "ce9ab0aa347707bf"),
        (0.5, {"tokens": 5000}, "70de87dcb2c6f0c8"),
    ],
)
def test_plain_orders_are_what_they_were(share, given, want: str) -> None:
    assert digest(training_order(tiny_data(37), budget(6, **given), share, 7)) == want


def test_pairs_come_together_and_length_says_nothing() -> None:
    data = described()
    order = training_order(data, budget(epochs=2), None, 0, max_length_ratio=1.3)
    num, right_left, wrong_left = unpaired(data, 1.3)
    assert 10 < num < 40
    assert (right_left, wrong_left) == (40 - num, 40 - num)
    assert len(order) == 8 * round(2 * 2 * num / 8)
    half = training_order(data, budget(epochs=2), 0.5, 0, max_length_ratio=1.3)
    assert half.tolist() == order.tolist()
    for batch in order.reshape(-1, 8):
        tasks = [data.items[i].example.task_id for i in batch]
        rewards = [data.items[i].example.reward for i in batch]
        assert sum(rewards) == 4
        for task in set(tasks):
            of_task = [r for t, r in zip(tasks, rewards, strict=True) if t == task]
            assert sum(of_task) * 2 == len(of_task)
        # The two of a pair side by side, so that an even micro-batch holds whole pairs.
        assert tasks[::2] == tasks[1::2]
        assert all(a + b == 1 for a, b in zip(rewards[::2], rewards[1::2], strict=True))
    overall, within = length_leak(data, order)
    assert abs(overall - 0.5) < 0.03
    assert abs(within - 0.5) < 0.05
    assert all(math.isnan(v) for v in length_leak(data, np.array([1, 3, 5])))


@pytest.mark.parametrize("mark", ["a/mutant/boundary", "a/timeout/loop_control", "mutant/swap"])
def test_mutants_are_paired_with_the_programs_that_they_were_made_of(mark: str) -> None:
    """`wmtp data mutate` names the change in the source, and the problem stays the same."""
    origin = "" if mark == "mutant/swap" else "a"
    plain = described(sources=(origin,))
    named = EncodedSet(
        [
            replace(i, example=replace(i.example, source=mark)) if i.example.reward == 0 else i
            for i in plain.items
        ]
    )
    assert unpaired(plain, 1.3)[0] > 10
    assert unpaired(named, 1.3) == unpaired(plain, 1.3)
    want = training_order(plain, budget(epochs=1), None, 0, max_length_ratio=1.3)
    found = training_order(named, budget(epochs=1), None, 0, max_length_ratio=1.3)
    assert found.tolist() == want.tolist()
    assert length_leak(named, found) == length_leak(plain, want)


def test_a_curriculum_opens_the_easiest_of_each_pool() -> None:
    data = described(140)
    difficulty = np.array([item.example.difficulty for item in data.items])
    wrong = np.array([item.example.reward == 0 for item in data.items])
    order = training_order(data, budget(steps=35), 0.5, 0, curriculum=CURRICULUM).reshape(35, 8)
    for step, batch in enumerate(order):
        c = min(1.0, 0.2 + 0.8 * step / 17.5)
        for kind in (wrong, ~wrong):
            reached = np.sort(difficulty[kind])[math.ceil(c * kind.sum() - 1e-9) - 1]
            assert difficulty[batch[kind[batch]]].max() <= reached
        assert wrong[batch].sum() == 4
    # Easy ones first, but a pass is still a pass: 35 steps of 8 are two of them.
    counts = np.bincount(order.ravel(), minlength=140)
    assert set(counts) <= {1, 2, 3}
    plain = training_order(data, budget(steps=35), 0.5, 0).reshape(35, 8)
    assert difficulty[order[:5]].mean() < difficulty[plain[:5]].mean() - 1


def test_a_curriculum_follows_a_budget_in_tokens() -> None:
    data = described(140)
    difficulty = np.array([item.example.difficulty for item in data.items])
    lengths = np.array([len(item) for item in data.items])
    order = training_order(data, budget(tokens=4000), None, 0, curriculum=CURRICULUM).reshape(-1, 8)
    seen = np.concatenate([[0], lengths[order].sum(axis=1).cumsum()])
    assert seen[-2] < 4000 <= seen[-1]
    for before, batch in zip(seen, order, strict=False):
        c = min(1.0, 0.2 + 0.8 * before / 2000)
        assert difficulty[batch].max() <= np.sort(difficulty)[math.ceil(c * 140 - 1e-9) - 1]


@pytest.mark.parametrize("share", [None, 0.25])
def test_every_batch_holds_the_mixture(share: float | None) -> None:
    data = described(400)
    weights = {"a": 0.8, "b": 0.2}
    order = training_order(data, budget(6, steps=50), share, 0, weights=weights).reshape(50, 6)
    from_b = np.array([item.example.source == "b" for item in data.items])[order]
    wrong = np.array([item.example.reward == 0 for item in data.items])[order]
    over_time = from_b.sum(axis=1).cumsum() - 0.2 * 6 * np.arange(1, 51)
    assert np.abs(over_time).max() <= (0.5 if share is None else 2)
    if share is not None:
        assert np.abs(wrong.sum(axis=1).cumsum() - share * 6 * np.arange(1, 51)).max() <= 2
        assert abs(wrong[from_b].mean() - share) < 0.05


def test_an_epoch_of_a_mixture_is_as_long_as_its_sources_together() -> None:
    data = described(80)
    weights = {"a": 0.5, "b": 0.5}
    order = training_order(data, budget(epochs=1), None, 0, weights=weights)
    assert sorted(order.tolist()) == list(range(80))
    with_share = training_order(data, budget(epochs=1), 0.5, 0, weights=weights)
    assert sorted(with_share.tolist()) == list(range(80))


def test_what_is_missing_is_said() -> None:
    data = described()
    unknown = EncodedSet(
        [replace(i, example=replace(i.example, difficulty=None)) for i in data.items[:3]]
        + data.items[3:]
    )
    with pytest.raises(DataError, match="a difficulty for every example; 3 of 80 have none"):
        training_order(unknown, budget(steps=1), None, 0, curriculum=CURRICULUM)
    none = CurriculumSection(schedule="none")
    assert training_order(unknown, budget(steps=1), None, 0, curriculum=none).tolist() == (
        training_order(unknown, budget(steps=1), None, 0).tolist()
    )
    with pytest.raises(DataError, match="no examples of c to draw 0.3 of the samples from"):
        training_order(data, budget(steps=1), None, 0, weights={"a": 0.7, "c": 0.3})
    right_b = EncodedSet(
        [i for i in data.items if i.example.source == "a" or i.example.reward == 1]
    )
    with pytest.raises(DataError, match="no incorrect examples of b to draw 0.25 of"):
        training_order(right_b, budget(steps=1), 0.5, 0, weights={"a": 0.5, "b": 0.5})
    with pytest.raises(DataError, match="0.001 of the 80 samples of the budget comes to no exam"):
        training_order(data, budget(steps=10), None, 0, weights={"a": 0.999, "b": 0.001})
    with pytest.raises(DataError, match="0.005 of the 80 samples .* comes to no incorrect exam"):
        training_order(data, budget(steps=5, size=16), 0.01 / 2, 0)
    apart = EncodedSet(
        [
            replace(i, example=replace(i.example, task_id="t"))
            for i in data.items
            if (len(i), i.example.reward) in {(8, 1.0), (14, 0.0)}
        ]
    )
    with pytest.raises(
        DataError, match=r"1 problems have both kinds; pairs are alike in length, .* 1\.1"
    ):
        training_order(apart, budget(steps=1), None, 0, max_length_ratio=1.1)
    alone = EncodedSet([i for i in data.items if i.example.reward == 1])
    for weights in (None, {"a": 0.5, "b": 0.5}):
        with pytest.raises(DataError, match="no pairs of correct and incorrect examples"):
            training_order(alone, budget(steps=1), None, 0, max_length_ratio=1.1, weights=weights)


def test_the_order_is_the_same_in_another_process() -> None:
    script = "from tests.data.test_order import *; print(digest(everything_at_once(described())))"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "PYTHONHASHSEED": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest(everything_at_once(described()))
