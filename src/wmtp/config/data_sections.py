"""Settings of the training data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from wmtp.config.section import OpenSection, Section


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
