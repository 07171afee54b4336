"""How much each head counts: the lambda_k of the loss, static or over the run.

    L = (H / N) sum_{b,t,k} lambda_k w[b,t,k] ce[b,t,k]

They stand beside the weights of any scheme, whose mean per head stays 1. DeepSeek-V3 (arXiv:2412.19437,
section 2.2 and 4.2) weighs the loss of its further heads by 0.3, then by 0.1 for the last third of the
tokens; with D further heads each of them has 0.3 / D, then 0.1 / D.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeadCoefficients:
    """`values` until the share `decay_start` of the steps, `final` from `decay_end` on, a line between."""

    values: tuple[float, ...]
    final: tuple[float, ...]
    decay_start: float
    decay_end: float

    def at(self, step: int, total_steps: int) -> list[float]:
        """Return lambda_k of every head in `step`, counted from 0."""
        start, end = self.decay_start * total_steps, self.decay_end * total_steps
        if step < start:
            progress = 0.0
        elif step >= end:
            progress = 1.0
        else:
            progress = (step - start) / (end - start)
        pairs = zip(self.values, self.final, strict=True)
        return [(1 - progress) * a + progress * b for a, b in pairs]
