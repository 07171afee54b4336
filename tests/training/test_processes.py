"""Two processes train as one does: padded, packed, and from each other's checkpoints on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import on_two_processes, tiny_data, trainer_for
from tests.training.test_trainer import ORDER, algorithms, model_for
from wmtp.data.packing import Packing
from wmtp.modeling.lora import add_lora
from wmtp.modeling.mtp import MTPModel
from wmtp.training.arguments import packed_batches

STEPS = np.concatenate([ORDER, ORDER[::-1]])  # four of 8 samples


class Case(NamedTuple):
    """An algorithm and how its samples lie in rows."""

    name: str
    packed: bool
    lora: bool = False

    @property
    def folder(self) -> str:
        name = self.name.replace(" ", "-")
        return f"{name}-{'packed' if self.packed else 'padded'}{'-lora' * self.lora}"

    def model(self) -> MTPModel:
        model = model_for(algorithms()[self.name]())
        if self.lora:
            add_lora(model, rank=2)
        return model


CASES = [
    Case(name, packed)
    for name in ("mtp-baseline", "critic-wmtp", "rho1-wmtp")
    for packed in (False, True)
]
CASES += [
    Case(name, False)
    for name in ("critic-pairwise", "critic-clipped", "by token", "gradient-importance")
]
CASES += [Case(name, False) for name in ("hybrid", "shuffled", "random-matched critic")]
CASES += [Case("mtp-baseline", False, lora=True)]
# The one whose checkpoints are gone on from, by another number of processes.
RESUMED = Case("critic-wmtp", packed=True)


def run(folder: Path, case: Case, processes: int, saved: Path | None = None) -> None:
    """Train, and write the losses of all steps and the last weights into the folder."""
    data, algorithm = tiny_data(), algorithms()[case.name]()
    layout: dict[str, Any] = {"micro": 2, "accumulation": 4 // processes}
    if case.packed:
        packing = Packing(data, STEPS, global_batch=8, capacity=60)
        micro, accumulation = packed_batches(packing.rows_needed(), 8, 1, processes)
        layout = {"micro": micro, "accumulation": accumulation, "packing": packing}
    trainer, logs = trainer_for(
        folder,
        algorithm,
        case.model(),
        data,
        STEPS,
        processes=processes,
        save_strategy="steps" if case == RESUMED else "no",
        save_steps=2,
        adam_epsilon=1e-4,  # or rounding decides the sign of a step where a gradient is nothing
        ddp_backend="gloo" if processes > 1 else None,
        ddp_find_unused_parameters=False,
        **layout,
    )
    trainer.train(resume_from_checkpoint=None if saved is None else str(saved))
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "losses": {log["step"]: log["train/loss"] for log in logs},
            "tokens": trainer.state.num_input_tokens_seen,
            "algorithm": algorithm.state,
        }
        (folder / "state.json").write_text(json.dumps(state))
        weights = {n: p.detach().contiguous() for n, p in trained(trainer.policy).items()}
        save_file(weights, folder / "weights.safetensors")
    trainer.accelerator.wait_for_everyone()


def resumed(before: Path, folder: Path, processes: int) -> None:
    """Go on after step 2 of the run in `before`."""
    run(folder, RESUMED, processes, before / RESUMED.folder / "checkpoint-2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of all cases on one process and on two."""
    alone, both = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("both")
    for case in CASES:
        run(alone / case.folder, case, processes=1)
    on_two_processes(Path(__file__).parent / "two_processes.py", str(both), str(alone))
    resumed(both, alone / "resumed", processes=1)
    return alone, both


def trained(model: MTPModel) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def numbers(state: Any) -> list[float]:
    """Return all numbers of an algorithm's state, in its order."""
    if isinstance(state, dict | list):
        return [
            n
            for part in (state.values() if isinstance(state, dict) else state)
            for n in numbers(part)
        ]
    return [state]


def compare(one: Path, two: Path, case: Case, steps: list[str]) -> None:
    a, b = (json.loads((folder / "state.json").read_text()) for folder in (one, two))
    assert list(b["losses"]) == steps
    for step in steps:
        assert b["losses"][step] == pytest.approx(a["losses"][step], rel=2e-5)
    assert a["tokens"] == b["tokens"] == 2 * sum(map(len, tiny_data().items))
    weights, others = (load_file(folder / "weights.safetensors") for folder in (one, two))
    start = trained(case.model())
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-4, atol=2e-5, msg=name)
        assert not torch.equal(weight, start[name]), name
    assert b["algorithm"].keys() == a["algorithm"].keys()
    assert numbers(b["algorithm"]) == pytest.approx(numbers(a["algorithm"]), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.folder)
def test_losses_and_last_weights_are_those_of_one_process(
    runs: tuple[Path, Path], case: Case
) -> None:
    alone, both = runs
    compare(alone / case.folder, both / case.folder, case, ["1", "2", "3", "4"])
    if case.packed:  # and packing changes nothing
        compare(
            alone / case._replace(packed=False).folder,
            both / case.folder,
            case,
            ["1", "2", "3", "4"],
        )


def test_one_process_goes_on_where_two_stopped_and_two_where_one_did(
    runs: tuple[Path, Path],
) -> None:
    for resumed_on in runs:
        compare(runs[0] / RESUMED.folder, resumed_on / "resumed", RESUMED, ["3", "4"])
