"""Settings of the model and its tokenizer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wmtp.config.section import Section


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
