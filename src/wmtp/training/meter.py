"""Sums over targets that become the logged statistics, kept on the device until they are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Meter:
    """Statistics of loss, cross entropy and weights per head since the last reading.

    Micro-batches count once `end_step` keeps their step.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._max: Tensor | None = None
        self._step: list[tuple[dict[str, Tensor], Tensor]] = []
        self._num_steps = 0

    def add(
        self,
        ce: Float[Tensor, "B S H"],
        weights: Float[Tensor, "B S H"],
        valid: Bool[Tensor, "B S H"],
        loss: Float[Tensor, ""],
        measured: Bool[Tensor, "B S H"] | None = None,
        quartile: Int[Tensor, "B S H"] | None = None,
    ) -> None:
        """Take one micro-batch; `loss` is its share of the step's loss.

        measured: the targets whose `ce` was computed; all valid ones without it. quartile: that of each
        target's difficulty, 0 to 3, where it is known.
        """
        measured = valid if measured is None else measured
        weights = weights * valid
        entropy_terms = weights * weights.clamp(min=1e-30).log()
        sums = {
            "loss": loss.detach().double(),
            "count": valid.sum(dim=(0, 1)).double(),
            "measured": measured.sum(dim=(0, 1)).double(),
            "ce": ce.detach().sum(dim=(0, 1)).double(),
            "weight": weights.sum(dim=(0, 1)).double(),
            "squares": weights.square().sum(dim=(0, 1)).double(),
            "zeros": ((weights == 0) & valid).sum(dim=(0, 1)).double(),
            "entropy": entropy_terms.sum(dim=(0, 1)).double(),
        }
        if quartile is not None:
            columns = (valid, weights, measured, ce.detach())
            values = torch.stack([column.double() for column in columns], dim=-1)
            place = torch.nn.functional.one_hot(quartile.flatten(), 4).double()
            sums["by_quartile"] = place.T @ values.flatten(0, 2)
        self._step.append((sums, weights.amax(dim=(0, 1))))

    def end_step(self, keep: bool) -> None:
        """Count the micro-batches since the last step, or forget them."""
        step, self._step = self._step, []
        if not keep:
            return
        self._num_steps += 1
        for sums, largest in step:
            for name, value in sums.items():
                self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._max = largest if self._max is None else torch.maximum(self._max, largest)

    def read(
        self, reduce_sum: Callable[[Tensor], Tensor], reduce_max: Callable[[Tensor], Tensor]
    ) -> dict[str, float]:
        """Return metrics over all processes and start anew; empty before the first whole step.

        The mean loss of a step. Per head: mean cross entropy in nats; mean, standard deviation, largest
        value and share of zeros of the weights; effective sample size `(sum w)^2 / (n sum w^2)`; entropy
        of `w / sum w` relative to that of uniform weights, 0 to 1. Per quartile of difficulty: mean cross
        entropy and mean weight.
        """
        if self._max is None:
            return {}
        sums: dict[str, Any] = {
            name: reduce_sum(value).tolist() for name, value in self._sums.items()
        }
        largest = reduce_max(self._max).tolist()
        metrics = {"train/loss": sums["loss"] / self._num_steps}
        self._sums, self._max, self._num_steps = {}, None, 0
        for head, count in enumerate(sums["count"]):
            if count == 0:
                continue
            if sums["measured"][head] > 0:
                metrics[f"train/ce/head_{head}"] = sums["ce"][head] / sums["measured"][head]
            total, squares = sums["weight"][head], sums["squares"][head]
            mean = total / count
            metrics[f"train/weight/mean/head_{head}"] = mean
            metrics[f"train/weight/std/head_{head}"] = math.sqrt(
                max(squares / count - mean * mean, 0.0)
            )
            metrics[f"train/weight/max/head_{head}"] = largest[head]
            metrics[f"train/weight/zero_share/head_{head}"] = sums["zeros"][head] / count
            if squares > 0:
                metrics[f"train/weight/effective_sample_size/head_{head}"] = (
                    total * total / (count * squares)
                )
            if total > 0 and count > 1:
                entropy = math.log(total) - sums["entropy"][head] / total
                metrics[f"train/weight/entropy/head_{head}"] = entropy / math.log(count)
        for quartile, found in enumerate(sums.get("by_quartile", ()), start=1):
            count, total, measured, ce = found
            if measured > 0:
                metrics[f"train/difficulty/weight/quartile_{quartile}"] = total / count
                metrics[f"train/difficulty/ce/quartile_{quartile}"] = ce / measured
        return metrics
