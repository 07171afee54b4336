"""Proof, by trying, that documents which share a row do not see each other."""

from __future__ import annotations

import torch
from torch import Tensor

from wmtp.errors import ConfigError
from wmtp.losses import horizon_labels
from wmtp.modeling.layout import decoder_of, evaluating, takes_positions
from wmtp.modeling.mtp import MTPModel


def require_isolation(model: MTPModel) -> None:
    """Refuse a model whose documents cannot be packed, with a `ConfigError`.

    Rows of two documents go through the model, with positions that begin anew and without a mask, from
    which transformers makes the block-diagonal one. The loss of the second document must have exactly no
    gradient with respect to the embeddings of the first, at every head, and be that of the document
    alone. Recurrent layers, attention without positions and flash attention over several rows fail.
    """
    if not takes_positions(decoder_of(model.backbone)):
        raise _refusal(model, "it takes no position_ids")
    length = model.num_heads + 4
    with evaluating(model), torch.enable_grad():
        ids = torch.arange(3 * length, device=model.device) % (model.config.vocab_size - 1) + 1
        rows = torch.stack([ids[: 2 * length], ids[length:]])
        # The second row has its border elsewhere, as rows of a batch do.
        positions = torch.stack(
            [_positions([length, length]), _positions([length - 1, length + 1])]
        )
        positions = positions.to(model.device)
        second = positions.new_tensor([[length], [length - 1]])
        second = torch.arange(2 * length, device=model.device) >= second
        packed, gradient = _losses(model, rows, positions, second)
        if gradient[~second].any():
            raise _refusal(model, "a document in a row sees the one before it")
        for row, row_second, ce in zip(rows, second, packed, strict=True):
            alone = row[row_second][None]
            expected, _ = _losses(model, alone, None, torch.ones_like(alone, dtype=torch.bool))
            if not torch.allclose(ce[row_second], expected[0], rtol=1e-2, atol=1e-2):
                raise _refusal(model, "a document in a row has not the loss that it has alone")


def _losses(
    model: MTPModel, ids: Tensor, positions: Tensor | None, learned: Tensor
) -> tuple[Tensor, Tensor]:
    """Return `ce [B,S,H]` of the learned tokens, and its gradient `[B,S,D]` at the embeddings."""
    embedded: list[Tensor] = []

    def keep(_: torch.nn.Module, __: tuple[Tensor, ...], out: Tensor) -> Tensor:
        embedded.append(out.detach().requires_grad_())
        return embedded[-1]

    hook = model.backbone.get_input_embeddings().register_forward_hook(keep)
    try:
        labels = horizon_labels(ids.masked_fill(~learned, -100), model.num_heads, learned.long())
        out = model(input_ids=ids, position_ids=positions, labels=labels)
    finally:
        hook.remove()
    total = out.ce.sum() if out.value is None else out.ce.sum() + out.value[learned].sum()
    (gradient,) = torch.autograd.grad(total, embedded[0])
    return out.ce.detach(), gradient


def _positions(lengths: list[int]) -> Tensor:
    return torch.cat([torch.arange(length) for length in lengths])


def _refusal(model: MTPModel, reason: str) -> ConfigError:
    return ConfigError(
        f"data.packing: {model.config.model_type} models with "
        f"{getattr(model.config, '_attn_implementation', None)} attention cannot have several documents "
        f"in a row: {reason}. Set data.packing to none."
    )
