"""Loss on held-out text: cross entropy and accuracy per head, perplexity, bits per byte."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from wmtp.data.collate import Collate
from wmtp.data.encode import EncodedSet
from wmtp.evaluation.metrics import Interval, ratio_interval
from wmtp.evaluation.value_metrics import StateValues
from wmtp.losses import IGNORE_INDEX
from wmtp.modeling.mtp import MTPModel


@dataclass(frozen=True)
class HeldOutSums:
    """Sums per example (E) and head (H): `ce [E,H]` nats, `count [E,H]`, `right [E,H]`, `num_bytes [E]`.

    values: what the critic says of the examples; None without a critic or rewards.
    """

    ce: np.ndarray
    count: np.ndarray
    right: np.ndarray
    num_bytes: np.ndarray
    values: StateValues | None

    def curve_point(self, values_before: np.ndarray | None = None) -> dict[str, float]:
        """Return what a learning curve shows, keyed `eval/...`; heads without a target are left out.

        values_before: those at the end of phase `value`, where it is past.
        """
        metrics = {
            f"eval/{name}": interval.value for name, interval in self.intervals(resamples=0).items()
        }
        if self.values is not None:
            values = self.values.metrics(values_before)
            metrics |= {f"eval/value/{name}": value for name, value in values.items()}
        return metrics

    def intervals(self, resamples: int = 2000) -> dict[str, Interval]:
        """Return `ce/head_k`, `accuracy/head_k`, `perplexity` and `bits_per_byte` of the set.

        Intervals are bootstrapped over examples. Bits per byte counts the learned text and its end
        token under head 0.
        """
        found: dict[str, Interval] = {}
        for k in range(self.ce.shape[1]):
            if self.count[:, k].sum() == 0:
                continue
            found[f"ce/head_{k}"] = ratio_interval(self.ce[:, k], self.count[:, k], resamples)
            found[f"accuracy/head_{k}"] = ratio_interval(
                self.right[:, k], self.count[:, k], resamples
            )
        first = found["ce/head_0"]
        low, high = math.exp(first.low), math.exp(min(first.high, 700.0))
        found["perplexity"] = Interval(math.exp(min(first.value, 700.0)), low, high, first.n)
        bits = self.ce[:, 0] / math.log(2)
        found["bits_per_byte"] = ratio_interval(bits, self.num_bytes, resamples)
        return found


class HeldOut:
    """A held-out set that models are measured on. `newest` is what the last measurement found.

    by_source: the learning curve also has the loss of each source, keyed `eval/ce/source/NAME`.
    """

    def __init__(
        self, data: EncodedSet, collate: Collate, batch_size: int = 64, by_source: bool = False
    ) -> None:
        self.data = data
        self.collate = collate
        self.batch_size = batch_size
        self.newest: HeldOutSums | None = None
        self.values_before: np.ndarray | None = None
        self._sources = [item.example.source for item in data.items] if by_source else []

    def __call__(self, model: MTPModel) -> dict[str, float]:
        """Measure `model` and return a point of its learning curve."""
        sums = self.measure(model)
        metrics = sums.curve_point(self.values_before)
        for source in sorted(set(self._sources)):
            of = np.array(self._sources) == source
            ce = sums.ce[of, 0].sum() / sums.count[of, 0].sum()
            metrics[f"eval/ce/source/{source}"] = float(ce)
        return metrics

    def keep_values(self, model: MTPModel) -> np.ndarray | None:
        """Measure `model`; from now on `drift` is how far the values are from its, which are returned."""
        values = self.measure(model).values
        self.values_before = None if values is None else values.value
        return self.values_before

    @torch.no_grad()
    def measure(self, model: MTPModel) -> HeldOutSums:
        """Measure `model` on every example; it is left in evaluation mode."""
        model.eval()
        ce, count, right, values = [], [], [], []
        for start in range(0, len(self.data), self.batch_size):
            rows = list(enumerate(self.data.items))[start : start + self.batch_size]
            batch = self.collate(rows)
            ids = batch["input_ids"].to(model.device)
            mask = batch["attention_mask"].to(model.device)
            labels = batch["labels"].to(model.device)
            out = model(input_ids=ids, attention_mask=mask, labels=labels, with_predictions=True)
            valid = labels != IGNORE_INDEX
            ce.append(out.ce.double().sum(dim=1).cpu())
            count.append(valid.sum(dim=1).cpu())
            right.append(((out.predictions == labels) & valid).sum(dim=1).cpu())
            value = batch.get("value") if out.value is None else out.value.cpu()
            if value is not None:
                # No head of several has been fitted to these problems.
                value = value if value.dim() == 2 else value.mean(dim=2)
                values.append(value[valid[:, :, 0].cpu()])
        self.newest = HeldOutSums(
            ce=torch.cat(ce).numpy(),
            count=torch.cat(count).numpy(),
            right=torch.cat(right).numpy(),
            num_bytes=np.array([item.num_bytes for item in self.data.items]),
            values=self._state_values(values, torch.cat(count)[:, 0]),
        )
        return self.newest

    def _state_values(self, values: list[torch.Tensor], count: torch.Tensor) -> StateValues | None:
        examples = [item.example for item in self.data.items]
        rewards = [example.reward for example in examples]
        if not values or None in rewards:
            return None
        return StateValues(
            value=torch.cat(values).double().numpy(),
            count=count.numpy(),
            reward=np.array(rewards, dtype=np.float64),
            problem=np.array([example.problem for example in examples]),
        )
