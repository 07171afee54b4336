"""What an algorithm is: the one thing that varies between runs, the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wmtp.config.recipe import Section

ConfigT = TypeVar("ConfigT", bound=Section)


@dataclass(frozen=True)
class Batch:
    """What an algorithm may look at. Legend: B batch, S sequence, H heads.

    ce: cross entropy per target, nats, detached; None where the algorithm does not use it. valid:
    targets that count. completion: tokens of the completion, stored by token. value: V after reading each
    token, with gradient, or None. reward, ref_ce: the sample's reward and each token's reference cross
    entropy, or None when the data has none. sample_ids: which training sample each row is. step,
    total_steps: progress in optimizer steps, from 0.
    """

    ce: Float[Tensor, "B S H"] | None
    valid: Bool[Tensor, "B S H"]
    completion: Bool[Tensor, "B S"]
    sample_ids: list[int]
    step: int
    total_steps: int
    value: Float[Tensor, "B S"] | None = None
    reward: Float[Tensor, " B"] | None = None
    ref_ce: Float[Tensor, "B S"] | None = None


@dataclass(frozen=True)
class Weighting:
    """What an algorithm answers.

    weights `[B,S,H]`: float32, detached, finite, >= 0, 0 where invalid, and with mean 1 over the valid
    targets of each head within the scheme's scope. auxiliary `[B,S]`: a further loss per state, with
    gradient, 0 where there is none; the trainer divides its sum by the number of completion tokens
    of the whole step. sums: named sums over the batch that the trainer adds up over micro-batches and
    processes and hands to `Algorithm.end_step`.
    """

    weights: Float[Tensor, "B S H"]
    auxiliary: Float[Tensor, "B S"] | None = None
    sums: dict[str, Tensor] = field(default_factory=dict)


class Algorithm(ABC, Generic[ConfigT]):
    """A weighting scheme. A final subclass nests its settings as `Config` and writes `weigh`.

    needs: signals that the data must carry ("reward", "ref_ce"). uses_ce: whether `weigh` looks at
    `Batch.ce`; a scheme that does not is asked before the loss, which then costs less. Schemes with
    running statistics keep them in `state` (plain numbers, saved with every checkpoint) and change them in
    `end_step` only, so that the weights of a step do not depend on how it is cut into micro-batches.
    """

    Config: ClassVar[type[Section]]
    needs: frozenset[str] = frozenset()
    uses_ce: bool = True

    def __init__(self, config: ConfigT, seed: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.state: dict[str, Any] = {}

    @property
    def value_head(self) -> tuple[str, bool] | None:
        """Kind of value head that the model needs and whether it trains the trunk; None for none."""
        return None

    @property
    def reference(self) -> str | None:
        """Checkpoint of the reference model whose cross entropy is needed; None for none."""
        return None

    @abstractmethod
    def weigh(self, batch: Batch) -> Weighting:
        """Return the weights of a micro-batch; must not change `state`."""

    def signals(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the weights are made from, before clipping and selection, `[B,S,H]` by name.

        For audits: a larger signal means a larger weight, or an equal one. Only valid targets count.
        """
        return {}

    def end_step(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Take the step's sums over all micro-batches and processes; return metrics to log."""
        return {}

    def restore(self, saved: dict[str, Any]) -> None:
        """Put back the state of a checkpoint, in place."""
        for key, value in saved.items():
            if isinstance(self.state.get(key), dict):
                self.state[key].clear()
                self.state[key].update(value)
            else:
                self.state[key] = value


@dataclass
class RunningMoments:
    """Exponential moving averages of E[x] and E[x^2], bias-corrected, kept in an algorithm's state.

    decay: share of the old average kept per step. Before the first update the moments are unknown; an
    element that has never been counted has moments 0.
    """

    state: dict[str, Any]
    decay: float

    @property
    def known(self) -> bool:
        """Whether at least one step has been seen."""
        return bool(torch.tensor(self.state.get("weight", 0.0)).any())

    def mean(self) -> Tensor:
        """Return the mean, of the shape of what was given."""
        return torch.tensor(self.state["first"]) / self._weight()

    def std(self) -> Tensor:
        """Return the standard deviation."""
        second = torch.tensor(self.state["second"]) / self._weight()
        return (second - self.mean().square()).clamp(min=0.0).sqrt()

    def update(self, total: Tensor, squares: Tensor, count: Tensor) -> None:
        """Take one step's sums of x and x^2 and the number of x; elements without x do not change."""
        seen = (count > 0).cpu()
        if not bool(seen.any()):
            return
        found = {
            "first": total / count,
            "second": squares / count,
            "weight": torch.ones_like(total),
        }
        for name, new in found.items():
            old = torch.tensor(self.state.get(name, 0.0))
            mixed = self.decay * old + (1 - self.decay) * new.float().cpu()
            self.state[name] = torch.where(seen, mixed, old).tolist()

    def _weight(self) -> Tensor:
        return torch.tensor(self.state["weight"]).clamp(min=1e-12)
