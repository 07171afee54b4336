"""critic-wmtp: a value head learns P(success); its TD errors become exponential weights.

Two phases in one run. Phase `value` fits V(s) to the reward of the whole completion; phase `policy`
trains the heads with weights from the advantage of each token, while the value head goes on learning.
Advantage-weighted learning with exponential weights follows Peng et al. 2019 (arXiv:1910.00177);
departures: the advantage is a TD error per token, whitened, and the weight of a token serves every
head that predicts it.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from wmtp.algorithms.base import Algorithm, Batch, RunningMoments, Weighting
from wmtp.config.recipe import Section
from wmtp.weighting import align_to_heads, gae


def critic_weights(
    advantage: Float[Tensor, "B S"],
    valid: Bool[Tensor, "B S H"],
    beta: float = 0.9,
    clip: tuple[float, float] = (0.1, 5.0),
    mean: float = 0.0,
    std: float = 1.0,
) -> Float[Tensor, "B S H"]:
    """Return `clip(exp(((A - mean) / std) / beta))` for every head's target, 0 where invalid.

    `advantage` is stored by token; `mean` and `std` whiten it (0 and 1 leave it as it is). Not yet
    normalised to mean 1: see `Critic`. A raw TD error of 0.01 gives a weight of 1.01, a no-op, which is
    why whitening is the default there.
    """
    whitened = (advantage.detach().float() - mean) / max(std, 1e-6)
    weights = torch.exp((whitened / beta).clamp(max=50.0)).clamp(*clip)
    return align_to_heads(weights, valid.shape[2]) * valid


class ValuePhase(Section):
    """The phase in which only the value head, or it beside a uniform policy, is trained."""

    share: float = Field(
        1 / 6, ge=0, lt=1, description="Share of the budget; 0.5 of 3 epochs is 1/6."
    )
    policy_loss: bool = Field(
        False,
        description="Train the heads with uniform weights meanwhile: for models from scratch, whose "
        "trunk has nothing to read values from yet.",
    )


class Critic(Algorithm["Critic.Config"]):
    """Exponential weights from the TD errors of a learned P(success)."""

    class Config(Section):
        """Settings of both phases."""

        value_head: Literal["linear", "mlp", "evidence"] = Field(
            "linear",
            description="Shape of the value head; evidence: what each token says, its surprise under head "
            "0 included, summed up.",
        )
        train_trunk: bool = Field(
            False, description="Let the value loss send gradients into the trunk."
        )
        value_loss: Literal["mse", "bce"] = Field(
            "mse", description="Loss of V against the reward."
        )
        value_coef: float = Field(0.5, ge=0, description="Factor on the value loss, phase policy.")
        value_phase: ValuePhase = ValuePhase()
        gamma: float = Field(1.0, gt=0, le=1, description="Discount.")
        gae_lambda: float = Field(0.0, ge=0, le=1, description="0: plain TD error.")
        beta: float = Field(0.9, gt=0, description="Temperature of the exponential.")
        clip_min: float = Field(0.1, ge=0, description="Smallest weight before normalisation.")
        clip_max: float = Field(5.0, gt=0, description="Largest weight before normalisation.")
        whiten: bool = Field(True, description="Whiten advantages with running statistics.")
        running_decay: float = Field(
            0.95, gt=0, lt=1, description="Decay per step of the running statistics."
        )
        incorrect_samples: Literal["weight", "drop"] = Field(
            "weight", description="drop: samples with reward below 1 get no policy loss."
        )

        @model_validator(mode="after")
        def _clips_in_order(self) -> Critic.Config:
            if self.clip_min >= self.clip_max:
                raise ValueError(f"clip_min {self.clip_min} must be below clip_max {self.clip_max}")
            return self

    needs = frozenset({"reward"})
    uses_ce = False

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.advantage_moments = RunningMoments(
            self.state.setdefault("advantage", {}), config.running_decay
        )
        self.weight_moments = RunningMoments(
            self.state.setdefault("weight", {}), config.running_decay
        )

    @property
    def value_head(self) -> tuple[str, bool]:
        """As the recipe says."""
        return self.config.value_head, self.config.train_trunk

    def weigh(self, batch: Batch) -> Weighting:
        """Return weights by phase, and the value loss of every state before a completion token."""
        assert batch.value is not None
        assert batch.reward is not None
        advantage = gae(
            batch.value.detach(),
            batch.reward,
            batch.completion,
            self.config.gamma,
            self.config.gae_lambda,
        )
        raw = self._raw_weights(advantage, batch.valid)
        if self.config.incorrect_samples == "drop":
            raw = raw * (batch.reward >= 1.0)[:, None, None]
        in_value_phase = batch.step < round(self.config.value_phase.share * batch.total_steps)
        if in_value_phase:
            weights = batch.valid.float() * self.config.value_phase.policy_loss
        elif self.weight_moments.known:
            weights = raw / self.weight_moments.mean().to(raw.device).clamp(min=1e-6)
        else:
            weights = batch.valid.float()
        states = _states_before(batch.completion)
        loss = self._value_loss(batch.value, batch.reward) * states
        loss = loss * (1.0 if in_value_phase else self.config.value_coef)
        return Weighting(weights, loss, self._sums(batch, advantage, raw, states))

    def signals(self, batch: Batch) -> dict[str, Tensor]:
        """Return the advantage of every target's token."""
        assert batch.value is not None
        assert batch.reward is not None
        settings = self.config.gamma, self.config.gae_lambda
        advantage = gae(batch.value.detach(), batch.reward, batch.completion, *settings)
        return {"advantage": align_to_heads(advantage, batch.valid.shape[2])}

    def end_step(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Update the running statistics; return explained variance, value loss and AUC."""
        count = sums["tokens"]
        self.advantage_moments.update(sums["advantage"], sums["advantage_squared"], count)
        self.weight_moments.update(sums["weight"], sums["weight_squared"], sums["targets"])
        return {
            "value/mse": float(sums["error_squared"] / sums["states"].clamp(min=1)),
            "value/explained_variance": _explained_variance(sums),
            "value/advantage_std": float(self.advantage_moments.std())
            if self.advantage_moments.known
            else 0.0,
        }

    def _raw_weights(self, advantage: Tensor, valid: Tensor) -> Tensor:
        """Return clipped weights before normalisation; whitened once statistics are known."""
        mean, std = 0.0, 1.0
        if self.config.whiten and self.advantage_moments.known:
            mean = float(self.advantage_moments.mean())
            std = float(self.advantage_moments.std())
        clip = (self.config.clip_min, self.config.clip_max)
        return critic_weights(advantage, valid, self.config.beta, clip, mean, std)

    def _value_loss(self, value: Tensor, reward: Tensor) -> Tensor:
        target = reward[:, None].expand_as(value)
        if self.config.value_loss == "mse":
            return (value - target).square()
        return torch.nn.functional.binary_cross_entropy(
            value.clamp(1e-6, 1 - 1e-6), target, reduction="none"
        )

    def _sums(
        self, batch: Batch, advantage: Tensor, raw: Tensor, states: Tensor
    ) -> dict[str, Tensor]:
        assert batch.value is not None
        assert batch.reward is not None
        value = batch.value.detach() * states
        target = batch.reward[:, None] * states
        return {
            "tokens": batch.completion.sum(),
            "advantage": advantage.sum(),
            "advantage_squared": advantage.square().sum(),
            "targets": batch.valid.sum(dim=(0, 1)),
            "weight": raw.sum(dim=(0, 1)),
            "weight_squared": raw.square().sum(dim=(0, 1)),
            "states": states.sum(),
            "reward": target.sum(),
            "reward_squared": target.square().sum(),
            "error": (target - value).sum(),
            "error_squared": (target - value).square().sum(),
        }


def _states_before(completion: Bool[Tensor, "B S"]) -> Bool[Tensor, "B S"]:
    """Return the states whose next token belongs to the completion: those that TD errors use."""
    states = torch.zeros_like(completion)
    states[:, :-1] = completion[:, 1:]
    return states


def _explained_variance(sums: dict[str, Tensor]) -> float:
    """Return `1 - Var(R - V) / Var(R)` over the states of the step; 0 for a constant reward."""
    count = sums["states"].clamp(min=1)
    reward = sums["reward_squared"] / count - (sums["reward"] / count).square()
    error = sums["error_squared"] / count - (sums["error"] / count).square()
    return float(1 - error / reward) if reward > 1e-8 else 0.0
