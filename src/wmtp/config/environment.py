"""The environment: where a recipe runs. It never changes what is learned beyond rounding."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wmtp.config.section import Section


class TrackingSection(Section):
    """MLflow, which holds parameters, metrics and artifacts of runs."""

    enabled: bool = Field(True, description="Write to MLflow (needs the `tracking` extra).")
    uri: str = Field(
        "sqlite:///runs/mlflow.db", description="Tracking store: sqlite:///, file or server URI."
    )
    experiment: str = Field("wmtp", description="MLflow experiment name.")


class SandboxSection(Section):
    """How model-written programs are isolated."""

    mode: Literal["auto", "limits-only"] = Field(
        "auto",
        description="auto: strongest isolation that works here, or refuse; limits-only: accept "
        "resource limits alone (named in the report).",
    )
    workers: int | None = Field(None, gt=0, description="Parallel programs; default: all cores.")


class GenerationSection(Section):
    """How completions are drawn for an evaluation."""

    backend: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="vllm: the offline engine of vLLM, which is installed separately and needs a GPU; its "
        "samples have other random numbers.",
    )
    rows: int | None = Field(
        None,
        gt=0,
        description="Completions drawn at a time by transformers; default: 64 on an accelerator, 16 on a "
        "CPU, where more count as 16.",
    )


class CheckpointSection(Section):
    """How often a run is saved, so that a killed run resumes."""

    every_steps: int = Field(500, gt=0, description="Steps between checkpoints.")
    keep: int = Field(1, gt=0, description="Checkpoints kept; older ones are deleted.")


class Environment(Section):
    """Where to run: the whole of an environment file. Every field has a default."""

    name: str = Field("local", description="Names the environment in reports.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where to compute.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on GPUs that have it, float32 elsewhere."
    )
    micro_batch: int | None = Field(
        None, gt=0, description="Sequences per device and forward; null: the whole global batch."
    )
    gradient_checkpointing: Literal["none", "heads", "all"] = Field(
        "none",
        description="Save the memory of activations. heads: parallel heads take turns, each forward and "
        "backward, where weights are known before the loss (no recomputation); else those of the further "
        "heads are recomputed in the backward. all: the same, and every layer is recomputed.",
    )
    loss_backend: Literal["auto", "torch", "onednn", "liger", "cut-cross-entropy"] = Field(
        "auto",
        description="Code of the cross entropy; results differ by rounding alone. auto: oneDNN's matrix "
        "product on x86-64 CPUs, torch's elsewhere; liger and cut-cross-entropy need a GPU and their "
        "packages.",
    )
    threads: int | None = Field(None, gt=0, description="CPU threads; default: torch's choice.")
    dataloader_workers: int = Field(0, ge=0, description="Processes that prepare batches.")
    output_root: str = Field("runs", description="Runs are written below this folder.")
    log_every_steps: int = Field(10, gt=0, description="Steps between logged metrics.")
    tracking: TrackingSection = TrackingSection()
    sandbox: SandboxSection = SandboxSection()
    generation: GenerationSection = GenerationSection()
    checkpoint: CheckpointSection = CheckpointSection()
