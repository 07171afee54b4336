"""The training step, on transformers.Trainer: forward, weigh, one globally normalised sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from wmtp.algorithms.base import Algorithm, Batch, Weighting
from wmtp.data.collate import Collate, PackedCollate
from wmtp.errors import TrainingError
from wmtp.losses import IGNORE_INDEX
from wmtp.modeling.lora import is_adapted, restore_adapted, save_adapter
from wmtp.modeling.mtp import MTPModel
from wmtp.modeling.output import MTPOutput
from wmtp.training.callbacks import RunState
from wmtp.training.coefficients import HeadCoefficients
from wmtp.training.diagnostics import quartile_of_targets
from wmtp.training.documents import Documents
from wmtp.training.importance import input_importance
from wmtp.training.meter import Meter

HeldOut = Callable[[MTPModel], dict[str, float]]

# transformers 5.17 puts the optimizer of one of several processes on "cpu:0", unknown to torch.load.
torch.serialization.register_package(
    11, lambda _: None, lambda storage, place: storage if place.startswith("cpu:") else None
)


class MTPTrainer(Trainer):
    """Trains an `MTPModel` under any `Algorithm`; final.

    The loss of a step is `(H / N) sum_{b,t,k} lambda_k w ce` plus the algorithm's auxiliary sum over the
    number of completion tokens, where N counts the valid targets of all micro-batches and processes of
    the step, and lambda_k are the `head_coefficients`, 1 without them. However a global batch is cut, the
    loss and its gradient are the same. Parameters that the loss of a step does not reach, such as those
    of the heads in phase `value`, rest in it: see `RunState`.
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
        head_coefficients: HeadCoefficients | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        difficulty_edges: Sequence[float] | None = None,
        on_log: Callable[[dict[str, float], int], None] | None = None,
        on_value_phase_end: Callable[[MTPModel], object] | None = None,
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
        if self.is_fsdp_enabled and algorithm.asks_for_importance(0):
            raise TrainingError(
                "gradient-importance needs the whole model in one place, and FSDP cuts it up. Train "
                "without FSDP, or choose another algorithm."
            )
        self.head_coefficients = head_coefficients
        self.saved_tokenizer = tokenizer
        self.held_out = held_out
        self.on_log = on_log
        self.on_value_phase_end = on_value_phase_end
        self.has_auxiliary = False
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
        coefficients = self._coefficients(labels)
        out, chosen, total = self._weighted_ce(model, inputs, documents, valid, coefficients)
        assert out.ce is not None
        ce = documents.from_rows(out.ce)
        loss = labels.shape[-1] * total / num_items_in_batch
        if chosen.auxiliary is not None:
            loss = loss + chosen.auxiliary.sum() / self._num_completion
            self.has_auxiliary = True
        # Losses that were never computed are no part of the mean.
        partly = self.algorithm.uses_ce == "head_0"
        measured = valid & (chosen.weights * coefficients != 0) if partly else valid
        quartile = None
        if self.difficulty_edges is not None and "ref_ce" in inputs:
            quartile = quartile_of_targets(
                inputs["ref_ce"], self.difficulty_edges, labels.shape[-1]
            )
        self.meter.add(ce, chosen.weights, valid, loss, measured, quartile)
        for name, value in chosen.sums.items():
            before = self._step_sums.get(name, torch.zeros((), device=value.device))
            self._step_sums[name] = before + value.detach().double()
        # Data-parallel wrappers average gradients over processes; the counts above are global.
        loss = loss * self.args.world_size
        return (loss, out) if return_outputs else loss

    def _weighted_ce(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        documents: Documents,
        valid: Tensor,
        coefficients: Tensor,
    ) -> tuple[MTPOutput, Weighting, Tensor]:
        """Return what the model gives, the algorithm's answer, and `sum lambda_k w ce` with gradient.

        The algorithm is asked as early as it can answer: then the loss costs less.
        """
        labels, uses_ce = inputs["labels"], self.algorithm.uses_ce
        forward = {
            "input_ids": inputs["input_ids"],
            # Several documents in a row: transformers finds them in the positions, without a mask.
            "attention_mask": inputs["attention_mask"] if documents.places is None else None,
            "position_ids": inputs.get("position_ids"),
            "labels": labels,
        }
        signals: dict[str, Tensor | None] = {"token_ids": inputs["input_ids"]}
        if self.algorithm.asks_for_importance(self.state.global_step):
            signals["importance"] = input_importance(self.policy, **forward)
        known: list[Weighting] = []

        def weigh(value: Tensor | None, anchor: Tensor | None, ce_0: Tensor | None) -> Tensor:
            ce = None if ce_0 is None else ce_0[..., None]
            by_row = {**signals, "value": value, "value_anchor": anchor, "ce": ce}
            known.append(self._weigh(inputs, documents, valid, by_row))
            return documents.to_rows(known[0].weights * coefficients, labels.shape)

        if uses_ce == "none":
            out = model(**forward, weigh=weigh)
        elif uses_ce == "head_0":
            uniform = (labels[..., 0] != IGNORE_INDEX) * coefficients[0]
            out = model(**forward, weigh=weigh, head_0_weights=uniform)
        else:
            out = model(**forward, with_entropy="entropy" in self.algorithm.needs)
            signals |= {"value": out.value, "value_anchor": out.value_anchor}
            signals |= {"ce": out.ce.detach(), "entropy": out.entropy}
            chosen = self._weigh(inputs, documents, valid, signals)
            ce = documents.from_rows(out.ce)
            return out, chosen, (chosen.weights * coefficients * ce).sum()
        return out, known[0], out.weighted_ce

    def _weigh(
        self,
        inputs: dict[str, Any],
        documents: Documents,
        valid: Tensor,
        signals: dict[str, Tensor | None],
    ) -> Weighting:
        """Ask the algorithm; `signals` are the model's, by row."""
        by_document = {k: documents.from_rows(v) for k, v in signals.items() if v is not None}
        batch = Batch(
            ce=by_document.pop("ce", None),
            valid=valid,
            completion=inputs["completion"],
            sample_ids=inputs["sample_ids"].tolist(),
            step=self.state.global_step,
            total_steps=self.state.max_steps,
            value=by_document.pop("value", inputs.get("value")),
            problem=inputs["problem"],
            reward=inputs.get("reward"),
            ref_ce=inputs.get("ref_ce"),
            fault=inputs.get("fault"),
            vocab_size=self.policy.vocab_size,
            **by_document,
        )
        return self.algorithm.weigh(batch)

    def _coefficients(self, labels: Tensor) -> Tensor:
        """Return lambda_k of this step, `[H]`."""
        if self.head_coefficients is None:
            return torch.ones(labels.shape[-1], device=labels.device)
        values = self.head_coefficients.at(self.state.global_step, self.state.max_steps)
        return torch.tensor(values, device=labels.device)

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
            self._scheme_metrics = self.algorithm.end_step(self._over_processes(sums))
        if self.state.global_step == self.algorithm.value_phase_steps(self.state.max_steps):
            self.end_value_phase()

    def _over_processes(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the sums over all processes, on the CPU; sent together."""
        total = self._reduce_sum(torch.cat([value.flatten() for value in sums.values()])).cpu()
        parts = total.split([value.numel() for value in sums.values()])
        return {
            name: part.view(value.shape)
            for (name, value), part in zip(sums.items(), parts, strict=True)
        }

    def end_value_phase(self) -> None:
        """Keep what the critic says now, for clipping and to see how far it moves later."""
        if self.policy.value_anchor is not None:
            self.policy.anchor_value()
        if self.on_value_phase_end is not None:
            with self.run_state.pause():
                self.on_value_phase_end(self.policy)
            self.policy.train()

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
            if self.saved_tokenizer is not None:
                self.saved_tokenizer.save_pretrained(folder)
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
