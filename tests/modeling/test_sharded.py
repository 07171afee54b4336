"""Sharded parameters (FSDP2) give the gradients of one process, by either loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.modeling.sharded import weighted_loss
from tests.tiny import on_two_processes, tiny_model
from wmtp.modeling.heads import HeadType


@pytest.mark.parametrize("head_type", ["parallel", "sequential"])
def test_two_sharded_processes_equal_one(tmp_path: Path, head_type: HeadType) -> None:
    out = tmp_path / "gradients.pt"
    on_two_processes(Path(__file__).parent / "sharded.py", str(out), head_type)
    sharded = torch.load(out, weights_only=True)
    for known, found in sharded.items():
        model = tiny_model(num_heads=3, head_type=head_type)
        weighted_loss(model, slice(None), known).backward()
        want = {name: p.grad for name, p in model.named_parameters()}
        assert set(found) == set(want)
        for name, grad in want.items():
            torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-6)
