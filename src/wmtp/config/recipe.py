"""The recipe: what is learned. It decides the numbers; the environment decides the place."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from wmtp.config.data_sections import DataSection
from wmtp.config.model_sections import ModelSection, TokenizerSection
from wmtp.config.protocols import PROTOCOLS
from wmtp.config.section import OpenSection, Section
from wmtp.errors import near_match


class AlgorithmSection(OpenSection):
    """The weighting scheme; its own settings stand beside `name`."""

    name: str = Field(description="Registered name; `wmtp list` shows all.")


class HeadCoefficientsSection(Section):
    """Factors lambda_k on the loss of each head, beside the weights of any algorithm."""

    values: tuple[float, ...] = Field(
        strict=False, description="One per head, head 0 first; all 1 is the plain sum over heads."
    )
    final: tuple[float, ...] | None = Field(
        None, strict=False, description="What they become; default: they stay."
    )
    decay_start: float = Field(
        0.0, ge=0, le=1, description="Share of the steps after which they begin to change."
    )
    decay_end: float = Field(
        1.0, ge=0, le=1, description="Share of the steps from which they are `final`."
    )

    @model_validator(mode="after")
    def _make_sense(self) -> HeadCoefficientsSection:
        for name, values in (("values", self.values), ("final", self.final)):
            if values is not None and (min(values, default=-1.0) < 0 or not any(values)):
                raise ValueError(f"{name} must be at least 0 and not all 0, found {list(values)}")
        if self.final is not None and len(self.final) != len(self.values):
            raise ValueError(f"values has {len(self.values)} heads, final {len(self.final)}")
        if self.final is None and {"decay_start", "decay_end"} & self.model_fields_set:
            raise ValueError("decay_start and decay_end say when `final` comes: give it")
        if self.decay_start > self.decay_end:
            raise ValueError(f"decay_start {self.decay_start} is above decay_end {self.decay_end}")
        return self


class OptimizationSection(Section):
    """AdamW, its schedule and the budget. Give exactly one of steps, epochs and tokens."""

    learning_rate: float = Field(gt=0, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Decay after the warm-up."
    )
    warmup_share: float = Field(0.05, ge=0, lt=1, description="Share of steps spent warming up.")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled weight decay.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="First moment decay.")
    adam_beta2: float = Field(0.95, ge=0, lt=1, description="Second moment decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm is clipped to this.")
    head_coefficients: HeadCoefficientsSection | None = Field(
        None, description="Factors on the loss of each head; null for 1."
    )
    global_batch: int = Field(gt=0, description="Sequences per optimizer step, over all devices.")
    steps: int | None = Field(None, gt=0, description="Budget in optimizer steps.")
    epochs: float | None = Field(None, gt=0, description="Budget in passes over the data.")
    tokens: int | None = Field(None, gt=0, description="Budget in tokens, padding not counted.")

    @model_validator(mode="after")
    def _one_budget(self) -> OptimizationSection:
        given = [n for n in ("steps", "epochs", "tokens") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of steps, epochs and tokens (found {given or 0})")
        return self


class EvaluationSection(OpenSection):
    """What is measured during and after training; the benchmark's settings stand beside it."""

    benchmark: str | None = Field(None, description="Registered name, or null for loss only.")
    protocol: str = Field("greedy", description="Named sampling settings, see docs/evaluation.md.")
    limit: int | None = Field(None, gt=0, description="Use at most this many tasks.")
    max_new_tokens: int | None = Field(
        None, gt=0, description="Longest completion; default: the benchmark's."
    )
    extraction: Literal["code", "cut", "fenced", "raw"] | None = Field(
        None,
        description="Rule that finds the code in a completion, see docs/evaluation.md; default: the "
        "benchmark's.",
    )
    held_out_points: int = Field(
        10, ge=0, description="How often the held-out loss is measured during training."
    )
    held_out_limit: int = Field(256, gt=0, description="Held-out examples used for the loss.")

    @field_validator("protocol")
    @classmethod
    def _protocol_known(cls, name: str) -> str:
        if name not in PROTOCOLS:
            raise ValueError(
                f"unknown protocol {name!r}.{near_match(name, PROTOCOLS)} "
                f"Known: {', '.join(PROTOCOLS)}."
            )
        return name


class Recipe(Section):
    """What to learn: the whole of a recipe file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Names the run folder.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seeds initialisation, order and shuffles.")
    algorithm: AlgorithmSection
    model: ModelSection
    tokenizer: TokenizerSection = TokenizerSection()
    data: DataSection
    optimization: OptimizationSection
    evaluation: EvaluationSection = EvaluationSection()

    @model_validator(mode="after")
    def _tokenizer_known(self) -> Recipe:
        chosen = self.tokenizer.pretrained or self.tokenizer.vocab_size
        if self.model.pretrained is None and not chosen:
            raise ValueError(
                "a model from scratch needs tokenizer.vocab_size (train one) or "
                "tokenizer.pretrained (take one)"
            )
        if self.model.pretrained is not None and self.tokenizer.vocab_size is not None:
            raise ValueError(
                "a pretrained model keeps its tokenizer: leave out tokenizer.vocab_size"
            )
        return self

    @model_validator(mode="after")
    def _pairs_fit(self) -> Recipe:
        if self.data.pairs and self.optimization.global_batch % 2:
            raise ValueError(
                f"data.pairs needs an even optimization.global_batch: it is "
                f"{self.optimization.global_batch}"
            )
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> Recipe:
        section = self.optimization.head_coefficients
        if section is not None and len(section.values) != self.model.num_heads:
            raise ValueError(
                f"optimization.head_coefficients.values has {len(section.values)} numbers, "
                f"model.num_heads is {self.model.num_heads}"
            )
        return self

    @model_validator(mode="after")
    def _lengths_fit(self) -> Recipe:
        length, architecture = self.data.max_length, self.model.architecture
        if architecture is not None and architecture.max_positions < length:
            raise ValueError(
                f"model.architecture.max_positions {architecture.max_positions} is below "
                f"data.max_length {length}. Raise the one or lower the other."
            )
        if self.model.num_heads >= length:
            raise ValueError(
                f"model.num_heads {self.model.num_heads} is not below data.max_length {length}: "
                "the last head would never have a target. Lower the one or raise the other."
            )
        return self
