"""Run by test_sharded under torch.distributed.run: gradients of a model sharded over two gloo processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from tests.tiny import VOCAB, tiny_model
from wmtp.losses import horizon_labels
from wmtp.modeling.heads import HeadType
from wmtp.modeling.mtp import MTPModel


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tokens, labels and weights of four sequences."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCAB, (4, 12), generator=generator)
    labels = horizon_labels(ids, 3)
    return ids, labels, torch.rand(labels.shape, generator=generator) * (labels != -100)


def weighted_loss(model: MTPModel, rows: slice, known: bool) -> torch.Tensor:
    """Return the weighted sum over some rows, by weights known before the loss or not."""
    ids, labels, weights = (tensor[rows] for tensor in batch())
    if known:
        total: torch.Tensor = model(ids, labels=labels, weigh=lambda *_: weights).weighted_ce
        return total
    return (model(ids, labels=labels).ce * weights).sum()


def main(out: str, head_type: HeadType) -> None:
    dist.init_process_group("gloo")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    rank = dist.get_rank()
    found = {}
    for known in (True, False):
        model = tiny_model(num_heads=3, head_type=head_type)
        for layer in [*model.backbone.model.layers, *model.heads]:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        loss = weighted_loss(model, slice(2 * rank, 2 * rank + 2), known)
        (2 * loss).backward()  # gradients are averaged over the two processes
        found[known] = {name: p.grad.full_tensor() for name, p in model.named_parameters()}
    if rank == 0:
        torch.save(found, Path(out))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort an interpreter that winds down


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])  # type: ignore[arg-type]
