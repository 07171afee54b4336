"""mtp-baseline: every target weighs the same (Gloeckle et al. 2024, arXiv:2404.19737)."""

from __future__ import annotations

from wmtp.algorithms.base import Algorithm, Batch, Weighting
from wmtp.config.section import Section


class Baseline(Algorithm["Baseline.Config"]):
    """Uniform weights: the control that every scheme is compared with. `w = 1`."""

    class Config(Section):
        """No settings."""

    uses_ce = "none"

    def weigh(self, batch: Batch) -> Weighting:
        """Return 1 at every valid target."""
        return Weighting(batch.valid.float())
