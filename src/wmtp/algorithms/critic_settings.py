"""Settings of critic-wmtp."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from wmtp.config.section import Section
from wmtp.weighting import ValueScale


class ValuePhase(Section):
    """The phase in which only the value head, or it beside a uniform policy, is trained."""

    share: float = Field(
        1 / 6,
        ge=0,
        le=1,
        description="Share of the budget; 0.5 of 3 epochs is 1/6. 0: the model to start from has a "
        "trained value head. 1: train a critic and no policy.",
    )
    policy_loss: bool | Literal["correct"] = Field(
        False,
        description="Train the heads with uniform weights meanwhile, on all samples or the correct ones: "
        "for models from scratch, whose trunk has nothing to read values from yet.",
    )


class CriticSettings(Section):
    """Settings of both phases."""

    values_from: str | None = Field(
        None,
        description="Run or checkpoint with a value head, a critic with a backbone of its own: its "
        "values are computed once and cached. Null: a value head on the policy's trunk.",
    )
    value_head: Literal["linear", "mlp", "evidence"] = Field(
        "linear",
        description="Shape of the value head; evidence: what each token says, its surprise under head 0 "
        "included, summed up.",
    )
    trunk: Literal["frozen", "trained"] = Field(
        "frozen",
        description="Whether the value loss sends gradients into the trunk (with LoRA: its adapters).",
    )
    cross_fit: int = Field(
        1,
        ge=1,
        le=16,
        description="Folds of problems, each with a value head fitted on the others' samples, so that V "
        "is never applied to problems it was fitted on. 1: one head for all.",
    )
    value_loss: Literal["mse", "bce", "pairwise"] = Field(
        "mse",
        description="Loss of V against the reward, or against the other sample of a pair (data.pairs).",
    )
    value_coef: float = Field(
        0.5, ge=0, description="Factor on the value loss in phase policy; 0 freezes the value head."
    )
    value_clip: float | None = Field(
        None,
        gt=0,
        le=1,
        description="In phase policy V gains nothing by moving further than this from what the value "
        "head of phase value says, as in PPO, where 0.2 is usual.",
    )
    value_phase: ValuePhase = ValuePhase()
    td_scale: ValueScale = Field(
        "probability",
        description="Scale on which values are subtracted: V itself, or one that keeps more of "
        "differences near 0 and 1, log_odds more than angle.",
    )
    gamma: float = Field(1.0, gt=0, le=1, description="Discount.")
    gae_lambda: float = Field(0.0, ge=0, le=1, description="0: plain TD error.")
    beta: float = Field(0.9, gt=0, description="Temperature of the exponential.")
    clip_min: float = Field(0.1, ge=0, description="Smallest weight before normalisation.")
    clip_max: float = Field(5.0, gt=0, description="Largest weight before normalisation.")
    whiten: bool = Field(True, description="Whiten advantages with running statistics.")
    whiten_terminal: Literal["together", "apart", "left_out"] = Field(
        "together",
        description="The last token's advantage, R - V, in the statistics: with the others', with ones "
        "of its own, or not counted.",
    )
    running_decay: float = Field(
        0.95, gt=0, lt=1, description="Decay per step of the running statistics."
    )
    warmup_steps: int = Field(
        2,
        ge=2,
        description="Steps of either phase that running statistics are taken of before the first weights; "
        "these are uniform until then.",
    )
    incorrect_samples: Literal["weight", "drop"] = Field(
        "weight", description="drop: samples with reward below 1 get no policy loss."
    )

    @model_validator(mode="after")
    def _clips_in_order(self) -> CriticSettings:
        if self.clip_min >= self.clip_max:
            raise ValueError(f"clip_min {self.clip_min} must be below clip_max {self.clip_max}")
        return self

    @model_validator(mode="after")
    def _discount_has_a_meaning(self) -> CriticSettings:
        if self.gamma < 1 and self.td_scale != "probability":
            raise ValueError(
                f"gamma {self.gamma} discounts probabilities of success; set td_scale to probability, or "
                "gamma to 1"
            )
        return self

    @model_validator(mode="after")
    def _no_leak(self) -> CriticSettings:
        if self.cross_fit > 1 and self.trunk == "trained":
            raise ValueError(
                f"cross_fit {self.cross_fit} needs trunk frozen: heads of different folds would learn "
                "through the trunk what they were not fitted on"
            )
        return self

    @model_validator(mode="after")
    def _clip_has_a_use(self) -> CriticSettings:
        if self.value_clip is not None and (self.value_loss == "pairwise" or self.value_coef == 0):
            raise ValueError(
                "value_clip limits a value loss against the reward that goes on in phase policy: leave it "
                "out with value_loss pairwise or value_coef 0"
            )
        return self

    @model_validator(mode="after")
    def _own_backbone(self) -> CriticSettings:
        """Values from elsewhere are not trained here, so what says how would not be read."""
        if self.values_from is None:
            return self
        fitting = {"value_head", "trunk", "cross_fit", "value_loss", "value_coef", "value_clip"}
        given = sorted((fitting | {"value_phase"}) & self.model_fields_set)
        if given:
            raise ValueError(
                f"values_from brings a critic that is trained already: leave out {', '.join(given)}"
            )
        return self
