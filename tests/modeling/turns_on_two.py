"""Run by test_one_at_a_time under torch.distributed.run: gradients of one step on two gloo processes."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.modeling.test_one_at_a_time import HEADS, IDS, LABELS, WEIGHTS
from tests.tiny import tiny_model
from wmtp.modeling import mtp


def main(out: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    rows = slice(rank, rank + 1)
    turns: list[int] = []
    plain = mtp.weighted_in_turn
    mtp.weighted_in_turn = lambda *args: (turns.append(1), plain(*args))[1]
    found = {}
    for kind in ("ddp", "whole", "layers"):
        model = tiny_model(HEADS).train()
        model.checkpoint_activations("heads")
        wrapped: torch.nn.Module = model
        if kind == "ddp":
            wrapped = DistributedDataParallel(model)
        elif kind == "layers":
            for layer in [*model.backbone.model.layers, *model.heads]:
                fully_shard(layer)
        if kind != "ddp":
            fully_shard(model)
        turns.clear()
        loss = wrapped(IDS[rows], labels=LABELS[rows], weigh=lambda *_: WEIGHTS[rows]).weighted_ce
        (2 * 3 * loss).backward()  # gradients are averaged over the two processes
        gradients = {name: p.grad for name, p in model.named_parameters()}
        if kind != "ddp":
            gradients = {name: grad.full_tensor() for name, grad in gradients.items()}
        found[kind] = {**gradients, "turns": torch.tensor(bool(turns))}
    if rank == 0:
        torch.save(found, out)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort an interpreter that winds down


if __name__ == "__main__":
    main(sys.argv[1])
