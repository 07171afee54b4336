"""Targets of every head, and their cross entropy."""

from wmtp.losses.backends import Backend, resolve
from wmtp.losses.cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_and_entropy,
    weighted_linear_cross_entropy,
)
from wmtp.losses.horizon import IGNORE_INDEX, horizon_labels

__all__ = [
    "IGNORE_INDEX",
    "Backend",
    "horizon_labels",
    "linear_cross_entropy",
    "linear_cross_entropy_and_entropy",
    "resolve",
    "weighted_linear_cross_entropy",
]
