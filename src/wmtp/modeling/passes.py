"""One pass of the backbone, and the hidden states of further heads that follow from it.

Legend: B batch, S sequence, D width. Head k = 0 to H-1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from wmtp.modeling.heads import HeadType, head_layers
from wmtp.modeling.layout import (
    LayerCall,
    decoder_of,
    final_hidden,
    position_arguments,
    recorded_calls,
    run_head,
)
from wmtp.modeling.sequential import chain


@dataclass(frozen=True)
class Pass:
    """What one pass of the backbone gives.

    first: what the unembedding reads of head 0, `[B,S,D]`. trunk: the trunk's output `[B,S,D]`.
    step: `step(head, k, h_{k-1})` gives the same as `first` of a further head. calls: those of the
    layers of head 0. detached: whether the graphs of the heads begin at a copy of `trunk`, which is then
    what the first call holds.
    """

    first: Tensor
    trunk: Tensor
    step: Callable[[nn.Module, int, Tensor], Tensor]
    calls: list[LayerCall]
    detached: bool = False


def run_backbone(
    backbone: PreTrainedModel,
    head_0: Sequence[nn.Module],
    head_type: HeadType,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    detach: bool = False,
) -> Pass:
    """Run the decoder once; what its own code passes to the layers `head_0` serves those of every head.

    detach: let the graphs of parallel heads begin anew at the trunk's output, where they read nothing
    else that learns.
    """
    decoder = decoder_of(backbone)
    with _cut_before(head_0[0], detach) as whole, recorded_calls(head_0) as calls:
        first = decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=False,
            return_dict=True,
            **position_arguments(decoder, position_ids),
        ).last_hidden_state
    if head_type == "sequential":
        return Pass(first, first, chain(backbone, input_ids, calls[0]), calls)
    start = calls[0].hidden

    def step(head: nn.Module, k: int, previous: Tensor) -> Tensor:
        return final_hidden(backbone, run_head(head_layers(head), calls, start))

    return Pass(first, whole[0] if whole else start, step, calls, detached=bool(whole))


@contextmanager
def _cut_before(layer: nn.Module, wanted: bool) -> Iterator[list[Tensor]]:
    """Detach the hidden states that `layer` gets while the context is open; collect them as they came."""
    whole: list[Tensor] = []

    def cut(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        others = tree_leaves((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))
        if any(isinstance(x, Tensor) and x.requires_grad for x in others):
            return None
        whole.append(hidden)
        alone = hidden.detach().requires_grad_(hidden.requires_grad)
        return ((alone, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": alone})

    if not wanted:
        yield whole
        return
    hook = layer.register_forward_pre_hook(cut, with_kwargs=True)
    try:
        yield whole
    finally:
        hook.remove()
