"""Run by test_trainer under torch.distributed.run: trains one algorithm on two gloo processes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.tiny import tiny_data, tiny_model, trainer_for
from tests.training.test_trainer import ORDER, algorithms
from wmtp.modeling.lora import add_lora


def main(name: str, out: str, lora_rank: str = "0") -> None:
    algorithm = algorithms()[name]()
    model = tiny_model(value_head=algorithm.value_head is not None)
    if int(lora_rank):
        add_lora(model, rank=int(lora_rank))
    trainer, logs = trainer_for(
        Path(out).parent,
        algorithm,
        model,
        tiny_data(),
        ORDER,
        micro=2,
        accumulation=2,
        processes=2,
        ddp_backend="gloo",
        ddp_find_unused_parameters=False,
    )
    trainer.train()
    if trainer.is_world_process_zero():
        Path(out).write_text(json.dumps(logs))
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    # gloo's threads now and then abort the interpreter while it winds down ("terminate called
    # without an active exception"). All that is tested has happened by now.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
