"""The recipe: what is learned. It decides the numbers; the environment decides the place."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from wmtp.config.protocols import PROTOCOLS
from wmtp.errors import near_match


class _Group(BaseModel):
    """What all groups of settings share: values are taken as they are typed, `true` is no number."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _null_means_defaults(cls, data: Any) -> Any:
        """Leave out each group inside this one that is null and has defaults."""
        if not isinstance(data, dict):
            return data
        groups = {k for k, field in cls.model_fields.items() if isinstance(field.default, _Group)}
        return {k: v for k, v in data.items() if v is not None or k not in groups}

    @field_validator("*", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """Take `1e9` for a whole number."""
        return int(value) if isinstance(value, float) and value.is_integer() else value


class Section(_Group):
    """A frozen group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class OpenSection(_Group):
    """A frozen group whose further keys belong to what it names (an algorithm, source, benchmark).

    Those keys are in `options`; `pipeline.py` validates them with the `Config` of what is named,
    so that they are errors too when they are unknown.
    """

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """The keys that this section does not declare itself."""
        return dict(self.model_extra or {})


class AlgorithmSection(OpenSection):
    """The weighting scheme; its own settings stand beside `name`."""

    name: str = Field(description="Registered name; `wmtp list` shows all.")


class ArchitectureSection(Section):
    """A decoder trained from scratch."""

    family: str = Field("llama", description="transformers model type, such as llama or qwen2.")
    hidden_size: int = Field(gt=0, description="Width D.")
    intermediate_size: int = Field(gt=0, description="Width of the feed-forward part.")
    num_layers: int = Field(ge=2, description="Decoder layers, those of head 0 included.")
    num_attention_heads: int = Field(gt=0, description="Query heads.")
    num_key_value_heads: int | None = Field(
        None, gt=0, description="Key/value heads; default: as many as query heads."
    )
    max_positions: int = Field(1024, gt=0, description="Longest sequence the model accepts.")
    tie_embeddings: bool = Field(True, description="Share input embedding and unembedding.")
    initializer_range: float = Field(
        0.02, gt=0, description="Standard deviation of the initial weights."
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> ArchitectureSection:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        if self.num_attention_heads % (self.num_key_value_heads or 1):
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        return self


_Names = Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class LoraSection(Section):
    """Low-rank adapters on a frozen backbone; further heads and value head train whole."""

    rank: int = Field(16, ge=1, description="Rank of every adapter.")
    alpha: float = Field(32.0, gt=0, description="Adapters are scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before every adapter.")
    target_modules: Literal["all-linear"] | _Names = Field(
        "all-linear",
        description="Names of the linear layers that get one, such as [q_proj, v_proj], or all-linear.",
    )


class ModelSection(Section):
    """The policy: a backbone and its future heads."""

    pretrained: str | None = Field(
        None, description="Folder or hub id of a causal language model or of a wmtp checkpoint."
    )
    architecture: ArchitectureSection | None = Field(
        None, description="Train from scratch with these sizes; excludes `pretrained`."
    )
    num_heads: int = Field(4, ge=1, description="Horizon H: tokens t+1..t+H are predicted.")
    head_type: Literal["parallel", "sequential"] = Field(
        "parallel",
        description="Further heads all on the trunk, or each on the one before and a token more "
        "(DeepSeek-V3).",
    )
    num_head_layers: int = Field(
        1,
        ge=1,
        description="Decoder layers per head; head 0 is the last ones of the model. 1 for sequential.",
    )
    head_init: Literal["copy", "linear-residual", "random"] | None = Field(
        None,
        description="How further heads start: as copies of head 0, reading the trunk's state as it is, "
        "or at random. Default: copy for a pretrained model, random from scratch.",
    )
    lora: LoraSection | None = Field(
        None,
        description="Train adapters on the backbone (needs the `lora` extra); null trains all.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> ModelSection:
        if (self.pretrained is None) == (self.architecture is None):
            raise ValueError("give exactly one of pretrained and architecture")
        if self.lora is not None and self.pretrained is None:
            raise ValueError(
                "lora adapts a pretrained model, and this one starts from random weights: give pretrained, "
                "or leave lora out"
            )
        if self.head_type == "sequential" and self.num_head_layers != 1:
            raise ValueError(
                f"sequential heads have 1 layer: num_head_layers is {self.num_head_layers}"
            )
        return self


class TokenizerSection(Section):
    """Where the tokenizer comes from; by default from the pretrained model."""

    pretrained: str | None = Field(None, description="Folder or hub id of a tokenizer.")
    vocab_size: int | None = Field(
        None, ge=260, description="Train a byte-level BPE of this size on the training data."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> TokenizerSection:
        if self.pretrained is not None and self.vocab_size is not None:
            raise ValueError("give at most one of pretrained and vocab_size")
        return self


class EvaluationSetSection(OpenSection):
    """Tasks that the training data should not hold; the source's settings stand beside it."""

    source: str = Field(description="Registered name of a data source.")
    split: str = Field("test", description="Split of the source.")


class DecontaminationSection(Section):
    """Which training examples overlap with evaluation tasks, and what becomes of them."""

    against: tuple[EvaluationSetSection, ...] = Field(
        min_length=1, strict=False, description="The evaluation sets."
    )
    ngram: int = Field(
        13, ge=2, description="Words in a row that both must have; the same prompt also counts."
    )
    action: Literal["report", "drop"] = Field(
        "report", description="Say how many there are, or leave them out too."
    )


class CurriculumSection(Section):
    """From easy to hard by `difficulty`: the easiest share of the samples that is open grows to 1."""

    schedule: Literal["linear", "sqrt", "step", "none"] = Field(
        "sqrt", description="How the open share grows; see docs/data.md."
    )
    start: float = Field(0.2, gt=0, le=1, description="Share of samples open at the first step.")
    end_share: float = Field(
        0.5, gt=0, le=1, description="Share of the budget after which all samples are open."
    )


class MixturePart(OpenSection):
    """One source of a mixture; the source's own settings stand beside `source`."""

    source: str = Field(description="Registered name; `wmtp list` shows all.")
    weight: float = Field(gt=0, le=1, description="Share of the training samples; all sum to 1.")
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Names the part in examples, metrics and messages; default: its source.",
    )

    @property
    def label(self) -> str:
        """The name of the part."""
        return self.name or self.source


class DataSection(OpenSection):
    """The training data; the source's own settings (`path`, ...) stand beside `source`."""

    source: str | None = Field(
        None, description="Registered name; `wmtp list` shows all. Excludes `mixture`."
    )
    mixture: tuple[MixturePart, ...] | None = Field(
        None, min_length=1, strict=False, description="Several sources with weights."
    )
    split: str = Field("train", description="Split that is trained on.")
    validation_split: str | None = Field(
        "validation", description="Split for held-out loss; null for none."
    )
    max_length: int = Field(512, ge=4, description="Longest sequence in tokens; see `truncation`.")
    truncation: Literal["cut", "drop", "error"] = Field(
        "cut",
        description="Longer examples: their completion is cut, they are left out (both are counted), "
        "or they are an error.",
    )
    template: Literal["plain", "chat", "alpaca"] = Field(
        "plain",
        description="Text around prompts, in training and evaluation: none, the tokenizer's chat "
        "template, or Stanford Alpaca's instruction format.",
    )
    boundary: Literal["split", "joint"] = Field(
        "split",
        description="Prompt and completion become tokens apart from each other, as in generation, or "
        "as one text; a token that holds characters of both is then learned.",
    )
    packing: Literal["none", "best_fit"] = Field(
        "none",
        description="Layout of a step's examples: padded, a row for each, or several to a row of "
        "max_length, isolated from each other. The losses are the same.",
    )
    pad_to_multiple_of: int = Field(
        8, ge=1, description="Rows are padded to a multiple of this many tokens."
    )
    incorrect_share: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of incorrect completions (reward below 1) among training samples; "
        "null keeps the source's own mixture, 0 keeps only the correct ones.",
    )
    pairs: bool = Field(
        False,
        description="Draw a correct and an incorrect completion of one problem together, alike in "
        "length, so that length does not give them away.",
    )
    max_length_ratio: float | None = Field(
        None, ge=1, description="With pairs: longer over shorter completion, at most. Default: 1.1."
    )
    curriculum: CurriculumSection | None = Field(
        None, description="Easy samples first; null for none."
    )
    limit: int | None = Field(None, gt=0, description="Use at most this many training examples.")
    decontaminate: DecontaminationSection | None = Field(
        None, description="Look for evaluation tasks among the training examples."
    )

    @property
    def label(self) -> str:
        """The source, or the sources of the mixture with their weights."""
        parts = [f"{part.label} {part.weight:g}" for part in self.mixture or ()]
        return self.source or " + ".join(parts)

    @model_validator(mode="after")
    def _one_origin(self) -> DataSection:
        if (self.source is None) == (self.mixture is None):
            raise ValueError(
                "give exactly one of source and mixture; `wmtp list` shows the sources"
            )
        if self.mixture is not None:
            if self.options:
                raise ValueError(f"{sorted(self.options)[0]} belongs into a part of the mixture")
            total = sum(part.weight for part in self.mixture)
            if abs(total - 1) > 1e-3:
                raise ValueError(
                    f"the weights of the mixture sum to {total:g}; they are shares and sum to 1"
                )
            labels = [part.label for part in self.mixture]
            if len(set(labels)) < len(labels):
                raise ValueError(f"two parts of the mixture have one name: {labels}; set `name`")
        return self

    @model_validator(mode="after")
    def _pairs_are_half_and_half(self) -> DataSection:
        if self.pairs and self.incorrect_share not in (None, 0.5):
            raise ValueError(
                f"pairs are half incorrect: incorrect_share is {self.incorrect_share}; leave it out"
            )
        if self.max_length_ratio is not None and not self.pairs:
            raise ValueError("max_length_ratio is for pairs: set pairs to true or leave it out")
        return self


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
