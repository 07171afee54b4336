"""Sequential heads (DeepSeek-V3, arXiv:2412.19437, section 2.2): each reads one token more than the last.

Head 0 is the whole backbone and h_0 its final hidden state, after the norm. Head k = 1 to H-1 has at
position t::

    h_k[t] = post_norm(block(eh_proj(cat(enorm(embed(x[t + k])), hnorm(h_{k-1}[t])))))

from which the shared unembedding predicts the token at t + k + 1. Attention in `block` goes over rows up
to t, so h_k[t] knows the tokens up to t + k. Rows of depth k have the rotary embedding of positions t + k
and the mask of rows t, as `transformers.modeling_layers.MtpModel` has when it drafts.

Rows whose x[t + k] is past the end, padding or in another document have no target (their label is -100),
and no row with a target sees them: it would have to be later in the same document.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from wmtp.errors import CheckpointError
from wmtp.modeling.heads import HeadInit, draw_anew, new_heads
from wmtp.modeling.layout import LayerCall, decoder_of, evaluating, same, tail

# Model types that are known to fit where a model cannot be run to see; tests/modeling/test_sequential.py.
_TESTED = {"deepseek_v3", "glm4_moe", "llama", "qwen3"}
# Far enough that layers which scale attention by position (Ministral 3) show it.
_FAR = 1 << 20


class SequentialHead(nn.Module):
    """One depth; the names are those of DeepSeek's checkpoints and of `MtpLayer`.

    `block` is a decoder layer of the family, the norms are of the kind of its final norm. Unless `init`
    is `random`, `eh_proj` begins as `[0 | I]` and `post_norm` as the final norm: the head begins by
    passing the state before it through its block, and learns how much to read of the token.
    """

    def __init__(self, backbone: PreTrainedModel, block: nn.Module, init: HeadInit) -> None:
        super().__init__()
        (norm,) = tail(backbone)
        width = backbone.config.hidden_size
        self.enorm, self.hnorm, self.post_norm = (copy.deepcopy(norm) for _ in range(3))
        self.eh_proj = nn.Linear(
            2 * width, width, bias=False, device=backbone.device, dtype=backbone.dtype
        )
        self.block = block
        for part in (self.enorm, self.hnorm):
            draw_anew(part, backbone)
        if init == "random":
            draw_anew(self.eh_proj, backbone)
            draw_anew(self.post_norm, backbone)
            return
        with torch.no_grad():
            self.eh_proj.weight.zero_()[:, width:].fill_diagonal_(1.0)

    def forward(self, embedded: Tensor, previous: Tensor, call: LayerCall) -> Tensor:
        """Return h_k `[B,S,D]` from the embeddings of x[t + k], from h_{k-1} and from a layer's call."""
        fused = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(previous)], dim=-1))
        hidden: Tensor = self.post_norm(call.on(self.block, fused))
        return hidden


def new_sequential_heads(
    backbone: PreTrainedModel, num_heads: int, init: HeadInit, calls: list[LayerCall]
) -> nn.ModuleList:
    """Return the heads 1 to `num_heads - 1`; their blocks begin as those of `new_heads` do.

    `calls` is that of `probe`. A model that they do not fit exactly is a `CheckpointError`.
    """
    _require_fit(backbone, calls)
    blocks = new_heads(backbone, num_heads, init, 1, calls)
    return nn.ModuleList(SequentialHead(backbone, block, init) for block in blocks)


def chain(
    backbone: PreTrainedModel, input_ids: Tensor, call: LayerCall
) -> Callable[[nn.Module, int, Tensor], Tensor]:
    """Return `step(head, k, h_{k-1}) -> h_k`; `call` is the one of the backbone's last layer."""
    embedded = backbone.get_input_embeddings()(input_ids)

    def step(head: nn.Module, k: int, previous: Tensor) -> Tensor:
        ahead = F.pad(embedded, (0, 0, 0, k))[:, k:]  # zeros past the end
        # position_ids stay: flash attention finds the packed documents in them.
        rotary = _rotary(backbone, call, call.kwargs["position_ids"] + k)
        hidden: Tensor = head(ahead, previous, _changed(call, position_embeddings=rotary))
        return hidden

    return step


def _rotary(backbone: PreTrainedModel, call: LayerCall, positions: Tensor) -> Any:
    """Return what the decoder would give its last layer as `position_embeddings`."""
    rotary = decoder_of(backbone).rotary_emb
    kind = {}
    if "layer_type" in inspect.signature(rotary.forward).parameters:
        kind["layer_type"] = backbone.config.layer_types[-1]
    return rotary(call.hidden, positions, **kind)


def _changed(call: LayerCall, **kwargs: Any) -> LayerCall:
    return LayerCall(call.layer, call.args, {**call.kwargs, **kwargs})


@torch.no_grad()
def _require_fit(backbone: PreTrainedModel, calls: list[LayerCall]) -> None:
    """Refuse what sequential heads do not fit exactly; with the calls of `probe`, by trying."""
    if len(tail(backbone)) != 1:
        raise _refusal(backbone, "not one norm, but more or none, stands after its last layer")
    if not calls:
        if backbone.config.model_type not in _TESTED:
            raise _refusal(backbone, "it cannot run here, so it is not checked")
        return
    call = calls[0]
    positions = call.kwargs.get("position_ids")
    known = call.kwargs.get("position_embeddings")
    if positions is None or known is None or not hasattr(decoder_of(backbone), "rotary_emb"):
        raise _refusal(
            backbone, "its layers do not take a rotary embedding, which says where t + k is"
        )
    if not all(map(same, _tensors(_rotary(backbone, call, positions)), _tensors(known))):
        raise _refusal(backbone, "its rotary embedding depends on more than positions")
    with evaluating(backbone):
        near, far = (
            _changed(call, position_ids=positions + shift).on(call.layer, call.hidden)
            for shift in (0, _FAR)
        )
    if not same(far, near):
        raise _refusal(backbone, "its layers read positions otherwise than by the rotary embedding")


def _tensors(embedding: Any) -> tuple[Tensor, ...]:
    return embedding if isinstance(embedding, tuple) else (embedding,)


def _refusal(backbone: PreTrainedModel, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{backbone.config.model_type} models cannot have sequential heads: {reason}. "
        "Choose head_type parallel."
    )
