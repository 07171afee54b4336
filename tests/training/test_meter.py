"""Weight statistics against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from wmtp.training.meter import Meter


def test_statistics_of_uniform_single_and_zero_weights() -> None:
    valid = torch.ones(1, 4, 3, dtype=torch.bool)
    weights = torch.tensor([[1.0, 4.0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]]).view(1, 4, 3)
    ce = torch.tensor([1.0, 2.0, 3.0]).expand(1, 4, 3)
    meter = Meter()
    meter.add(ce, weights, valid, torch.tensor(3.0))
    meter.end_step(keep=True)
    found = meter.read(lambda x: x, lambda x: x)
    assert found["train/loss"] == 3
    assert [found[f"train/ce/head_{k}"] for k in range(3)] == [1, 2, 3]
    assert [found[f"train/weight/mean/head_{k}"] for k in range(3)] == [1, 1, 0]
    assert [found[f"train/weight/max/head_{k}"] for k in range(3)] == [1, 4, 0]
    assert [found[f"train/weight/zero_share/head_{k}"] for k in range(3)] == [0, 0.75, 1]
    size = "train/weight/effective_sample_size/head_{}"
    assert [found[size.format(k)] for k in range(2)] == [1, 0.25]
    assert size.format(2) not in found
    assert found["train/weight/std/head_1"] == pytest.approx(math.sqrt(3))
    assert found["train/weight/entropy/head_0"] == pytest.approx(1)
    assert found["train/weight/entropy/head_1"] == pytest.approx(0, abs=1e-6)


def test_two_micro_batches_are_one_and_a_dropped_step_is_none() -> None:
    torch.manual_seed(0)
    weights, ce = torch.rand(4, 5, 2), torch.rand(4, 5, 2)
    valid = torch.rand(4, 5, 2) < 0.7
    whole, parts = Meter(), Meter()
    whole.add(ce * valid, weights, valid, torch.tensor(5.0))
    whole.end_step(keep=True)
    for rows, loss in ((slice(0, 1), 2.0), (slice(1, 4), 3.0)):
        parts.add((ce * valid)[rows], weights[rows], valid[rows], torch.tensor(loss))
    parts.end_step(keep=True)
    parts.add(ce * float("nan"), weights, valid, torch.tensor(float("nan")))
    parts.end_step(keep=False)
    one, two = (m.read(lambda x: x, lambda x: x) for m in (whole, parts))
    assert two == pytest.approx(one, rel=1e-5)
    assert parts.read(lambda x: x, lambda x: x) == {}
