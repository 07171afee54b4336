"""Weighted multi-token prediction: train with a weight per token and head, and measure it.

The names below are stable; they are imported on first use, so that `import wmtp` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wmtp.algorithms.critic import critic_weights
    from wmtp.algorithms.rho1 import rho1_weights
    from wmtp.evaluation.judge import judge
    from wmtp.evaluation.metrics import pass_at_k
    from wmtp.losses import (
        horizon_labels,
        linear_cross_entropy,
        weighted_linear_cross_entropy,
    )
    from wmtp.modeling.mtp import MTPModel
    from wmtp.weighting import align_to_heads, gae

__version__ = "0.1.0"

__all__ = [
    "MTPModel",
    "align_to_heads",
    "critic_weights",
    "gae",
    "horizon_labels",
    "judge",
    "linear_cross_entropy",
    "pass_at_k",
    "rho1_weights",
    "weighted_linear_cross_entropy",
]

_HOME = {
    "MTPModel": "wmtp.modeling.mtp",
    "align_to_heads": "wmtp.weighting",
    "critic_weights": "wmtp.algorithms.critic",
    "gae": "wmtp.weighting",
    "horizon_labels": "wmtp.losses",
    "judge": "wmtp.evaluation.judge",
    "linear_cross_entropy": "wmtp.losses",
    "pass_at_k": "wmtp.evaluation.metrics",
    "rho1_weights": "wmtp.algorithms.rho1",
    "weighted_linear_cross_entropy": "wmtp.losses",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wmtp' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
