"""The training step, on transformers.Trainer: forward, weigh, one globally normalised sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from wmtp.algorithms.base import Algorithm, Batch, Weighting
from wmtp.data.collate import Collate, PackedCollate
from wmtp.errors import TrainingError
from wmtp.losses import IGNORE_INDEX
from wmtp.modeling.lora import is_adapted, restore_adapted, save_adapter
from wmtp.modeling.mtp import MTPModel
from wmtp.training.callbacks import RunState
from wmtp.training.diagnostics import quartile_of_targets
from wmtp.training.documents import Documents
from wmtp.training.meter import Meter

HeldOut = Callable[[MTPModel], dict[str, float]]


class MTPTrainer(Trainer):
    """Trains an `MTPModel` under any `Algorithm`; final.

    The loss of a step is `(H / N) sum_{b,t,k} w ce` plus the algorithm's auxiliary sum over the number of
    completion tokens, where N counts the valid targets of all micro-batches and processes of the
    step. However a global batch is cut, the loss and its gradient are the same.
    """

    # compute_loss divides by the whole step's count, so Trainer must not divide by the number of
    # micro-batches once more.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model: MTPModel,
        args: TrainingArguments,
        train_dataset: Dataset[Any],
        collate: Collate | PackedCollate,
        algorithm: Algorithm[Any],
        non_finite_report: Path,
        held_out: HeldOut | None = None,
        held_out_points: int = 0,
        difficulty_edges: Sequence[float] | None = None,
        on_log: Callable[[dict[str, float], int], None] | None = None,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=train_dataset, data_collator=collate)
        points = held_out_points if held_out is not None else 0
        self.run_state = RunState(self, non_finite_report, points)
        self.add_callback(self.run_state)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if self.args.n_gpu > 1:
            raise TrainingError(
                f"{self.args.n_gpu} GPUs are visible to one process, which would use DataParallel. "
                "Start with torchrun, or choose one GPU with CUDA_VISIBLE_DEVICES."
            )
        self.policy = model
        self.algorithm = algorithm
        self.held_out = held_out
        self.on_log = on_log
        self.difficulty_edges = difficulty_edges
        self.meter = Meter()
        self._num_completion: Tensor | float = 0.0
        self._step_sums: dict[str, Tensor] = {}
        self._scheme_metrics: dict[str, float] = {}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a micro-batch, its share of the step's loss."""
        labels = inputs["labels"]
        documents = Documents.of(inputs)
        valid = documents.from_rows(labels != IGNORE_INDEX)
        known: list[Weighting] = []

        def weigh(value: Tensor | None) -> Tensor:
            by_document = None if value is None else documents.from_rows(value)
            known.append(self._weigh(inputs, valid, by_document, None))
            return documents.to_rows(known[0].weights, labels.shape)

        out = model(
            input_ids=inputs["input_ids"],
            # Several documents in a row: transformers finds them in the positions, without a mask.
            attention_mask=inputs["attention_mask"] if documents.places is None else None,
            position_ids=inputs.get("position_ids"),
            labels=labels,
            weigh=None if self.algorithm.uses_ce else weigh,
        )
        ce = documents.from_rows(out.ce)
        if known:
            chosen, total = known[0], out.weighted_ce
        else:
            value = None if out.value is None else documents.from_rows(out.value)
            chosen = self._weigh(inputs, valid, value, ce.detach())
            total = (chosen.weights * ce).sum()
        loss = labels.shape[-1] * total / num_items_in_batch
        if chosen.auxiliary is not None:
            loss = loss + chosen.auxiliary.sum() / self._num_completion
        quartile = None
        if self.difficulty_edges is not None and "ref_ce" in inputs:
            quartile = quartile_of_targets(
                inputs["ref_ce"], self.difficulty_edges, labels.shape[-1]
            )
        self.meter.add(ce, chosen.weights, valid, loss, quartile=quartile)
        for name, value in chosen.sums.items():
            before = self._step_sums.get(name, torch.zeros((), device=value.device))
            self._step_sums[name] = before + value.detach().double()
        # Data-parallel wrappers average gradients over processes; the counts above are global.
        loss = loss * self.args.world_size
        return (loss, out) if return_outputs else loss

    def _weigh(
        self, inputs: dict[str, Any], valid: Tensor, value: Tensor | None, ce: Tensor | None
    ) -> Weighting:
        batch = Batch(
            ce=ce,
            valid=valid,
            completion=inputs["completion"],
            sample_ids=inputs["sample_ids"].tolist(),
            step=self.state.global_step,
            total_steps=self.state.max_steps,
            value=value,
            reward=inputs.get("reward"),
            ref_ce=inputs.get("ref_ce"),
        )
        return self.algorithm.weigh(batch)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Fetch the micro-batches of a step and count its targets over all processes."""
        batches, num_targets = super().get_batch_samples(epoch_iterator, num_batches, device)
        completion = sum(batch["completion"][:, 1:].sum() for batch in batches)
        self._num_completion = self._reduce_sum(torch.as_tensor(completion).double().to(device))
        if batches and num_targets == 0:
            samples = [i for batch in batches for i in batch["sample_ids"].tolist()]
            raise TrainingError(
                f"step {self.state.global_step}: none of the samples {samples[:8]} has a target. "
                "Raise data.max_length, or remove empty completions from the data."
            )
        return batches, num_targets

    def end_step(self, keep: bool) -> None:
        """Hand the step's sums to the algorithm, or drop them; called once per optimizer step."""
        self.meter.end_step(keep)
        sums, self._step_sums = self._step_sums, {}
        if sums and keep:
            sums = {name: self._reduce_sum(value) for name, value in sums.items()}
            self._scheme_metrics = self.algorithm.end_step(sums)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the held-out loss and log it."""
        with self.run_state.pause():
            metrics = {} if self.held_out is None else self.held_out(self.policy)
        self.policy.train()
        self.control.should_evaluate = False  # or the end of the epoch asks once more
        if self.on_log is not None and metrics:
            self.on_log(metrics, self.state.global_step)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a training event under our names, with what was measured since the last one."""
        names = ("grad_norm", "learning_rate")
        metrics = {f"train/{name}": float(logs[name]) for name in names if name in logs}
        if not metrics:
            return  # the library's summary at the end: run.json has ours
        if "grad_norm" in logs:
            metrics |= self.run_state.head_gradient_norms(float(logs["grad_norm"]))
        metrics |= self.meter.read(self._reduce_sum, self._reduce_max)
        metrics["train/tokens_per_second"] = self.run_state.tokens_per_second()
        metrics |= {f"train/{name}": value for name, value in self._scheme_metrics.items()}
        if self.on_log is not None:
            self.on_log(metrics, self.state.global_step)

    def _reduce_sum(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, reduction="sum") if self._distributed else value

    def _reduce_max(self, value: Tensor) -> Tensor:
        if not self._distributed:
            return value
        return self.accelerator.gather(value[None]).amax(dim=0)

    @property
    def _distributed(self) -> bool:
        return self.args.world_size > 1

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """Write the model in our layout; nothing is pickled."""
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            self.policy.save_pretrained(folder, state_dict)
            if is_adapted(self.policy):
                save_adapter(self.policy, folder, state_dict)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Load a checkpoint of our layout into the model, bit for bit."""
        saved = MTPModel.from_pretrained(resume_from_checkpoint)
        if is_adapted(self.policy):
            restore_adapted(self.policy, saved, Path(resume_from_checkpoint))
        else:
            self.policy.load_state_dict(saved.state_dict())
