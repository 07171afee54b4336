"""What an algorithm is: the one thing that varies between runs, the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wmtp.config.section import Section

ConfigT = TypeVar("ConfigT", bound=Section)
UsesCE = Literal["none", "head_0", "all"]


class ValueHeadSettings(NamedTuple):
    """The value head that a scheme needs on the policy's trunk.

    train_trunk: whether the value loss sends gradients into the trunk. num_folds: heads fitted apart, V
    then has one value for each. anchored: whether a copy of the head as it was after phase `value` is
    kept. trained_before: whether the model to start from must have the head.
    """

    kind: Literal["linear", "mlp", "evidence"]
    train_trunk: bool
    num_folds: int = 1
    anchored: bool = False
    trained_before: bool = False


@dataclass(frozen=True)
class Batch:
    """What an algorithm may look at. Legend: B batch, S sequence, H heads.

    ce: cross entropy per target, nats, detached, of the heads that `Algorithm.uses_ce` asks for (K = H, or
    1 for head 0 alone); else None. valid: targets that count. completion: tokens of the completion, stored
    by token. sample_ids: which training sample each row is. step, total_steps: progress in optimizer
    steps, from 0. The rest is None where the data have none, or where nobody asked. value: V after
    reading each token, with gradient; K heads fitted on different folds give K values. value_anchor: the
    same of the heads as they were after phase `value`. problem: a number of the sample's problem, the same
    in every run. reward: of the sample. Stored by token, `[B,S]`: ref_ce, the reference's cross entropy;
    fault, whether a known fault is there; token_ids, out of `vocab_size`; importance, the L1 norm of the
    loss gradient with respect to the token's embedding. entropy: of the distribution that predicts the
    target, nats.
    """

    ce: Float[Tensor, "B S K"] | None
    valid: Bool[Tensor, "B S H"]
    completion: Bool[Tensor, "B S"]
    sample_ids: list[int]
    step: int
    total_steps: int
    value: Float[Tensor, "B S *K"] | None = None
    value_anchor: Float[Tensor, "B S *K"] | None = None
    problem: Int[Tensor, " B"] | None = None
    reward: Float[Tensor, " B"] | None = None
    ref_ce: Float[Tensor, "B S"] | None = None
    fault: Bool[Tensor, "B S"] | None = None
    token_ids: Int[Tensor, "B S"] | None = None
    vocab_size: int = 0
    importance: Float[Tensor, "B S"] | None = None
    entropy: Float[Tensor, "B S H"] | None = None


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

    needs: signals that `Batch` must carry: "reward", "ref_ce" and "fault" come from the data, "entropy"
    from the model; "correct" asks for samples with reward 1 and "pairs" for whole pairs of a correct and an
    incorrect one in every forward. uses_ce: what `weigh` has to know of the losses of this step. With
    `none` it is asked before them, which then cost less. With `head_0` it sees those of head 0 and must
    leave head 0 uniform: the other heads then never compute the loss of a target that gets weight 0. With
    `all` it is asked last. Schemes with running statistics keep them in `state` (plain numbers, saved with
    every checkpoint) and change them in `end_step` only, so that the weights of a step do not depend on
    how it is cut into
    micro-batches.
    """

    Config: ClassVar[type[Section]]
    needs: frozenset[str] = frozenset()
    uses_ce: UsesCE = "all"

    def __init__(self, config: ConfigT, seed: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.state: dict[str, Any] = {}

    @property
    def value_head(self) -> ValueHeadSettings | None:
        """The value head that the model needs; None for none."""
        return None

    @property
    def values_from(self) -> str | None:
        """Checkpoint whose values the data must carry; None for none."""
        return None

    def value_phase_steps(self, total_steps: int) -> int | None:
        """Return how many of the first steps fit values for the later ones; None without values."""
        return None

    @property
    def reference(self) -> str | None:
        """Checkpoint of the reference model whose cross entropy is needed; None for none."""
        return None

    def asks_for_importance(self, step: int) -> bool:
        """Return whether `Batch.importance` is wanted in this step: another backward computes it."""
        return False

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
