"""critic-wmtp: a value head learns P(success); its TD errors become exponential weights.

Two phases in one run. Phase `value` fits V(s) to the reward of the whole completion; phase `policy`
trains the heads with weights from the advantage of each token, while the value head goes on learning.
Advantage-weighted learning with exponential weights follows Peng et al. 2019 (arXiv:1910.00177);
departures: the advantage is a TD error per token, whitened, and the weight of a token serves every
head that predicts it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wmtp.algorithms.base import Algorithm, Batch, RunningMoments, ValueHeadSettings, Weighting
from wmtp.algorithms.critic_settings import CriticSettings
from wmtp.algorithms.critic_statistics import (
    histogram,
    quantile_metrics,
    value_metrics,
    value_sums,
)
from wmtp.losses.value import pairwise_value_loss, pointwise_value_loss, states_before
from wmtp.weighting import align_to_heads, gae, on_scale, value_of_fold


def critic_weights(
    advantage: Float[Tensor, "B S"],
    valid: Bool[Tensor, "B S H"],
    beta: float = 0.9,
    clip: tuple[float, float] = (0.1, 5.0),
    mean: float | Float[Tensor, "B S"] = 0.0,
    std: float | Float[Tensor, "B S"] = 1.0,
) -> Float[Tensor, "B S H"]:
    """Return `clip(exp(((A - mean) / std) / beta))` for every head's target, 0 where invalid.

    `advantage` is stored by token; `mean` and `std` whiten it (0 and 1 leave it as it is). Not yet
    normalised to mean 1: see `Critic`. A raw TD error of 0.01 gives a weight of 1.01, a no-op, which is
    why whitening is the default there. As `beta` falls to 0 the weights tend to the upper clip where
    A is above the mean, the lower one where it is below, and 1 between.
    """
    std = std.clamp(min=1e-6) if isinstance(std, Tensor) else max(std, 1e-6)
    whitened = (advantage.detach().float() - mean) / std
    # A smaller temperature would be 0 in float32; a larger exponent than 50 is past any clip.
    weights = torch.exp((whitened / max(beta, 1e-30)).clamp(max=50.0)).clamp(*clip)
    return align_to_heads(weights, valid.shape[2]) * valid


class Critic(Algorithm[CriticSettings]):
    """Exponential weights from the TD errors of a learned P(success)."""

    Config = CriticSettings
    uses_ce = "none"

    def __init__(self, config: CriticSettings, seed: int = 0) -> None:
        super().__init__(config, seed)
        needs = {"reward"}
        if config.incorrect_samples == "drop" or config.value_phase.policy_loss == "correct":
            needs.add("correct")
        if config.value_loss == "pairwise":
            needs.add("pairs")
        self.needs = frozenset(needs)
        decay = config.running_decay
        self.advantage_moments = RunningMoments(self.state.setdefault("advantage", {}), decay)
        self.weight_moments = RunningMoments(self.state.setdefault("weight", {}), decay)

    @property
    def value_head(self) -> ValueHeadSettings | None:
        """As the recipe says; None where the values come from another model."""
        config = self.config
        if config.values_from is not None:
            return None
        return ValueHeadSettings(
            config.value_head,
            config.trunk == "trained",
            config.cross_fit,
            anchored=config.value_clip is not None,
            trained_before=config.value_phase.share == 0,
        )

    @property
    def values_from(self) -> str | None:
        """As the recipe says."""
        return self.config.values_from

    def value_phase_steps(self, total_steps: int) -> int:
        """Return the steps of phase `value`."""
        if self.config.values_from is not None:
            return 0
        return round(self.config.value_phase.share * total_steps)

    def weigh(self, batch: Batch) -> Weighting:
        """Return weights by phase, and the value loss of every state before a completion token."""
        assert batch.reward is not None
        config = self.config
        states = states_before(batch.completion)
        advantage = self._advantage(batch, config.gae_lambda)
        raw = self._raw_weights(advantage, batch.valid, batch.completion & ~states)
        at_clips = [(raw == clip) & batch.valid for clip in (config.clip_min, config.clip_max)]
        uniform = batch.valid.float()
        correct = uniform * (batch.reward >= 1.0)[:, None, None]
        if config.incorrect_samples == "drop":
            raw, uniform = raw * correct, correct
        sums = {
            **value_sums(self._value(batch), batch.reward, states),
            **_moment_sums(advantage, batch.completion, states),
            "td_errors": histogram(self._advantage(batch, lam=0.0), batch.completion),
            "at_clips": torch.stack([clipped.sum() for clipped in at_clips]),
            "targets": batch.valid.sum(dim=(0, 1)),
            "weight": raw.sum(dim=(0, 1)),
            "weight_squared": raw.square().sum(dim=(0, 1)),
        }
        in_value_phase = batch.step < self.value_phase_steps(batch.total_steps)
        if in_value_phase:
            weights = correct if config.value_phase.policy_loss == "correct" else uniform
            weights = weights * bool(config.value_phase.policy_loss)
        elif self.state.get("steps", 0) >= config.warmup_steps and self.weight_moments.known:
            weights = raw / self.weight_moments.mean().to(raw.device).clamp(min=1e-6)
        else:
            weights = uniform
        auxiliary = None
        if config.values_from is None:
            auxiliary = self._value_loss(batch, in_value_phase) * states
        return Weighting(weights, auxiliary, sums)

    def signals(self, batch: Batch) -> dict[str, Tensor]:
        """Return the advantage of every target's token, with the last V in the place of the reward.

        So what is audited has not been told whether the program is right.
        """
        value = self._value(batch)
        last = batch.completion & ~states_before(batch.completion)
        untold = replace(batch, reward=(value * last).sum(dim=1))
        advantage = self._advantage(untold, self.config.gae_lambda)
        return {"advantage": align_to_heads(advantage, batch.valid.shape[2])}

    def end_step(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Update the running statistics; return what is logged of the step."""
        terminal = self.config.whiten_terminal
        advantage = [sums[key] for key in ("advantage", "advantage_squared", "tokens")]
        if terminal == "together":
            advantage = [pair.sum().expand(2) for pair in advantage]
        elif terminal == "left_out":
            advantage = [pair[:1].expand(2) for pair in advantage]
        if self.advantage_moments.known or not self.config.whiten:
            # Weights of the step before that are of another scale.
            self.weight_moments.update(sums["weight"], sums["weight_squared"], sums["targets"])
        self.advantage_moments.update(*advantage)
        self.state["steps"] = self.state.get("steps", 0) + 1
        at_clips = (sums["at_clips"] / sums["targets"].sum().clamp(min=1)).tolist()
        metrics = {
            **value_metrics(sums),
            **quantile_metrics(sums["td_errors"]),
            "weight/share_at_clip_min": at_clips[0],
            "weight/share_at_clip_max": at_clips[1],
        }
        if self.advantage_moments.known:
            inner, last = self.advantage_moments.std().tolist()
            metrics |= {"value/advantage_std": inner, "value/advantage_std_terminal": last}
        return metrics

    def _value(self, batch: Batch) -> Float[Tensor, "B S"]:
        """Return V of every state by the head that was not fitted to the row, without gradient."""
        assert batch.value is not None
        return value_of_fold(batch.value.detach(), batch.problem)

    def _advantage(self, batch: Batch, lam: float) -> Float[Tensor, "B S"]:
        """Return the advantage of every completion token; with `lam` 0 the TD error."""
        assert batch.reward is not None
        value, reward = (
            on_scale(v, self.config.td_scale) for v in (self._value(batch), batch.reward)
        )
        return gae(value, reward, batch.completion, self.config.gamma, lam)

    def _raw_weights(
        self, advantage: Tensor, valid: Tensor, is_last: Bool[Tensor, "B S"]
    ) -> Tensor:
        """Return clipped weights before normalisation; whitened once statistics are known."""
        clip = (self.config.clip_min, self.config.clip_max)
        if not (self.config.whiten and self.advantage_moments.known):
            return critic_weights(advantage, valid, self.config.beta, clip)
        mean, std = (
            torch.where(is_last, last, inner)
            for inner, last in (
                self.advantage_moments.mean().tolist(),
                self.advantage_moments.std().tolist(),
            )
        )
        return critic_weights(advantage, valid, self.config.beta, clip, mean, std)

    def _value_loss(self, batch: Batch, in_value_phase: bool) -> Float[Tensor, "B S"]:
        """Return the loss of V at every state, averaged over the heads that are fitted to the row."""
        config = self.config
        value, reward, problem = batch.value, batch.reward, batch.problem
        assert value is not None
        assert reward is not None
        if config.value_loss == "pairwise":
            assert problem is not None
            loss = pairwise_value_loss(value, reward, batch.completion, problem)
        else:
            clip = None if in_value_phase else config.value_clip
            loss = pointwise_value_loss(value, reward, config.value_loss, batch.value_anchor, clip)
        if loss.dim() == 3:  # the head of the row's own fold is left out
            folds = loss.shape[2]
            loss = (loss.sum(dim=2) - value_of_fold(loss, problem)) / (folds - 1)
        return loss if in_value_phase else config.value_coef * loss


def _moment_sums(advantage: Tensor, completion: Tensor, states: Tensor) -> dict[str, Tensor]:
    """Return sums over the completion tokens that are not the last of theirs, and over the last."""
    groups = torch.stack([completion & states, completion & ~states])
    of_group = advantage * groups
    return {
        "tokens": groups.sum(dim=(1, 2)),
        "advantage": of_group.sum(dim=(1, 2)),
        "advantage_squared": of_group.square().sum(dim=(1, 2)),
    }
