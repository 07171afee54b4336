"""Shared fixtures: tiny models and data, and run-time checks of shapes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# No test reaches the network; libraries must not try.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

# Shapes and dtypes in signatures are checked at run time, in tests only.
install_import_hook(
    ["wmtp.losses", "wmtp.weighting", "wmtp.algorithms", "wmtp.training.meter"], "beartype.beartype"
)

import torch

# Models here are so small that a second thread costs more than it saves, most of all on a busy machine.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data sets (../shared/data) are not on this machine")
    return SHARED_DATA
