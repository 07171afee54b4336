"""What happens around the steps: finite gradients, state of the run, checkpoints that are whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from wmtp.errors import TrainingError
from wmtp.outputs import atomic_write_json
from wmtp.training.diagnostics import head_gradient_norms

if TYPE_CHECKING:
    from wmtp.training.trainer import MTPTrainer


class RunState(TrainerCallback, ExportableState):
    """Carries the algorithm's statistics and the run's counters through checkpoints.

    seconds: time spent training, over all resumptions, without the held-out measurements. skipped:
    steps left out because their gradient
    was not finite; `patience` of them in a row stop the run. The held-out loss is measured at
    `held_out_points` evenly spaced steps, the last one among them.
    """

    def __init__(
        self, trainer: MTPTrainer, report: Path, held_out_points: int, patience: int = 3
    ) -> None:
        self.trainer = trainer
        self.report = report
        self.held_out_points = held_out_points
        self.patience = patience
        self.skipped = 0
        self._in_a_row = 0
        self._head_shares: dict[int, float] = {}
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._read = (0, 0.0)

    @property
    def seconds(self) -> float:
        """Seconds spent in training so far, resumptions included."""
        return self._seconds_before + time.monotonic() - self._started

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Stop the clock inside the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._started += time.monotonic() - began

    def tokens_per_second(self) -> float:
        """Return the rate of training since this was last asked."""
        now = (int(self.trainer.state.num_input_tokens_seen), self.seconds)
        (tokens, seconds), self._read = self._read, now
        return (now[0] - tokens) / max(now[1] - seconds, 1e-9)

    def head_gradient_norms(self, whole: float) -> dict[str, float]:
        """Return the norm of each head's gradient in the step that is logged, whose own norm is `whole`.

        Like that, they are from before clipping.
        """
        shares, self._head_shares = self._head_shares, {}
        return {f"train/grad_norm/head_{k}": whole * share for k, share in shares.items()}

    def state(self) -> dict[str, Any]:
        """Return what `trainer_state.json` keeps."""
        attributes = {
            "algorithm": self.trainer.algorithm.state,
            "seconds": self.seconds,
            "skipped": self.skipped,
        }
        return {"args": {}, "attributes": attributes}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put back what a checkpoint kept."""
        self._started = time.monotonic()
        callbacks: Any = state.stateful_callbacks
        saved = callbacks.get(type(self).__name__)
        if state.global_step > 0 and isinstance(saved, dict):
            attributes = saved["attributes"]
            self.trainer.algorithm.restore(attributes["algorithm"])
            self._seconds_before = attributes["seconds"]
            self.skipped = attributes["skipped"]
        self._read = (int(state.num_input_tokens_seen), self._seconds_before)
        if state.global_step == 0 and self.trainer.algorithm.value_phase_steps(args.max_steps) == 0:
            self.trainer.end_value_phase()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave out a step whose gradient is not finite; stop when they keep coming."""
        grads = [p.grad for p in self.trainer.policy.parameters() if p.grad is not None]
        total = torch.nn.utils.get_total_norm(grads)
        if bool(torch.isfinite(total)):
            self._in_a_row = 0
            if self.trainer.has_auxiliary:
                self._rest()
            if (state.global_step + 1) % args.logging_steps == 0:
                norms = head_gradient_norms(self.trainer.policy)
                self._head_shares = {
                    k: float(norm / total.clamp(min=1e-30)) for k, norm in norms.items()
                }
            return
        self.trainer.policy.zero_grad(set_to_none=True)
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= self.patience:
            batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            start = state.global_step * batch
            dataset: Any = self.trainer.train_dataset
            places = range(start, start + batch)
            samples = [sample for place in places for sample in dataset.samples(place)]
            atomic_write_json(self.report, {"step": state.global_step, "samples": samples})
            raise TrainingError(
                f"step {state.global_step}: the gradient was not finite {self._in_a_row} steps in a row. "
                f"The samples of the last one are in {self.report}. Lower optimization.learning_rate, "
                "or look for broken samples."
            )

    def _rest(self) -> None:
        """Keep the optimizer from parameters without gradient: it would decay and move them."""
        trained = [p for p in self.trainer.policy.parameters() if p.grad is not None]
        reached = torch.stack([p.grad.any() for p in trained if p.grad is not None]).tolist()
        for parameter, is_reached in zip(trained, reached, strict=True):
            if not is_reached:
                parameter.grad = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the algorithm update its running statistics; ask for a held-out loss when one is due."""
        self.trainer.end_step(keep=self._in_a_row == 0)
        done, before = (
            step * self.held_out_points // args.max_steps
            for step in (state.global_step, state.global_step - 1)
        )
        control.should_evaluate = done > before
