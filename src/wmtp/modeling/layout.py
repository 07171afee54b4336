"""Where a family of transformers keeps what future heads share, and the proof that nothing is missed.

Heads need four things of a decoder: its layers, the arguments of the last ones, what stands between
them and the unembedding, and what is done to the logits after it. All are found by name. `probe` then
runs the model on two tokens and compares, so that a family that does more than this module knows is
refused instead of trained wrong. docs/families.md is the list.

A mixture of experts trains through the cross entropy alone: the load-balancing loss that some families
add to their own loss is no part of the model's forward here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from wmtp.errors import CheckpointError

_LAYERS = ("layers", "h", "blocks")
# In the order in which they are applied; OPT projects to the width of its embeddings after its norm.
_TAIL = (
    *("norm", "norm_f", "ln_f", "layer_norm", "final_layernorm", "final_layer_norm"),
    *("embedding_norm", "project_out"),
)

# Model types whose parity is measured, by tests/modeling/test_families.py.
_TESTED = """
    bamba bloom codegen cohere cohere2 deepseek_v3 ernie4_5 exaone4 falcon falcon_h1 gemma
    gemma2 gemma3_text glm4 glm4_moe gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite
    granitemoe jamba lfm2 llama llama4_text mamba mamba2 ministral mistral mixtral mpt
    nemotron olmo olmo2 olmo3 olmoe opt phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe
    qwen3_next seed_oss smollm3 stablelm starcoder2
"""
TESTED = frozenset(_TESTED.split())


@dataclass(frozen=True)
class LayerCall:
    """One call of a decoder layer, as the family's own code made it.

    The arguments hold mask, rotary embedding and positions, whatever they look like, so they serve the
    layers of further heads too.
    """

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def hidden(self) -> Tensor:
        """The hidden states `[B,S,D]` that went in."""
        return self.args[0] if self.args else self.kwargs["hidden_states"]

    def on(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Return what `layer` makes of `hidden`, the other arguments being those of this call."""
        if self.args:
            return _first(layer(hidden, *self.args[1:], **self.kwargs))
        return _first(layer(**{**self.kwargs, "hidden_states": hidden}))


def decoder_of(backbone: PreTrainedModel) -> Any:
    """Return the part of a causal language model that holds the decoder layers."""
    for decoder in (backbone.get_decoder(), getattr(backbone, "model", None)):
        if _layer_list(decoder) is not None:
            return decoder
    raise _refusal(backbone, f"its decoder has no list of layers named {', '.join(_LAYERS)}")


def decoder_layers(backbone: PreTrainedModel) -> list[nn.Module]:
    """Return all decoder layers, from the bottom."""
    return list(_layer_list(decoder_of(backbone)) or ())


@contextmanager
def recorded_calls(layers: Sequence[nn.Module]) -> Iterator[list[LayerCall]]:
    """Collect the calls of `layers` while the context is open."""
    calls: list[LayerCall] = []

    def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(LayerCall(layer, args, kwargs))

    hooks = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Turn off dropout and the like while the context is open."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def run_head(head: Sequence[nn.Module], calls: list[LayerCall], hidden: Tensor) -> Tensor:
    """Return what the layers of a head make of the trunk's output, with the arguments of head 0."""
    for layer, call in zip(head, calls, strict=True):
        hidden = call.on(layer, hidden)
    return hidden


def tail(backbone: PreTrainedModel) -> list[nn.Module]:
    """Return what stands between the last layer and the unembedding, in order."""
    decoder = decoder_of(backbone)
    found = (getattr(decoder, name, None) for name in _TAIL)
    return [module for module in found if module is not None]


def final_hidden(backbone: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return what the unembedding reads, from the output of a last layer."""
    for module in tail(backbone):
        hidden = module(hidden)
    return hidden


def takes_positions(decoder: nn.Module) -> bool:
    """Return whether a decoder has an argument `position_ids`; some would ignore it silently."""
    return "position_ids" in inspect.signature(decoder.forward).parameters


def position_arguments(decoder: nn.Module, position_ids: Tensor | None) -> dict[str, Tensor]:
    """Return the decoder's argument for positions, none where they are not given."""
    if position_ids is None:
        return {}
    if not takes_positions(decoder):
        raise CheckpointError(f"{type(decoder).__name__} takes no position_ids. Leave them out.")
    return {"position_ids": position_ids}


def logit_options(config: Any) -> dict[str, Any]:
    """Return what a transformers configuration does to its logits, as options of the loss.

    Cohere multiplies them by `logit_scale`, Falcon-H1 by `lm_head_multiplier`; Granite divides them by
    `logits_scaling`; Gemma 2 caps them at `final_logit_softcapping`.
    """
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale *= float(getattr(config, "lm_head_multiplier", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    return {"logit_scale": scale, "softcap": getattr(config, "final_logit_softcapping", None)}


def logits_of(backbone: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return the logits `[...,V]` of what `final_hidden` gives, to the last bit the family's own."""
    config = backbone.config
    unembedding = backbone.get_output_embeddings()
    logits = unembedding(hidden.to(unembedding.weight.dtype))  # Mamba's residual stream is float32
    for name in ("logit_scale", "lm_head_multiplier"):
        if getattr(config, name, None):
            logits = logits * getattr(config, name)
    if getattr(config, "logits_scaling", None):
        logits = logits / config.logits_scaling
    softcap = getattr(config, "final_logit_softcapping", None)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def same(found: Tensor, expected: Tensor) -> bool:
    """Return whether two results are equal: bit for bit on a CPU, GPUs may sum in any order."""
    if found.shape != expected.shape:
        return False
    on_cpu = expected.device.type == "cpu"
    tolerance = 0.0 if on_cpu else 1e-2 * float(expected.abs().max())
    found = found.to(expected.dtype)
    return torch.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True)


@torch.no_grad()
def probe(backbone: PreTrainedModel, num_head_layers: int) -> list[LayerCall]:
    """Check that this module describes `backbone`; return the calls of its last layers on two tokens.

    Raises a `CheckpointError` that says what does not fit. Every model is run, as a family may change
    with its settings and with the version of transformers; two forwards of two tokens cost less than
    loading the weights does. Where a model cannot run (weights on the meta device or partitioned, flash
    attention on a CPU), families of `TESTED` pass unseen, others are refused, and there are no calls.
    """
    layers = decoder_layers(backbone)
    if len(layers) <= num_head_layers:
        raise CheckpointError(
            f"{backbone.config.model_type}: a model with {len(layers)} decoder layers has no trunk when "
            f"head 0 is the last {num_head_layers}. At least {num_head_layers + 1} layers are needed."
        )
    if backbone.config.get_text_config() is not backbone.config:
        raise _refusal(backbone, "it is more than a text model; take the text model in it")
    unembedding = backbone.get_output_embeddings()
    if type(unembedding) is not nn.Linear:
        raise _refusal(backbone, f"its unembedding is {type(unembedding).__name__}, not Linear")
    if not _can_run(backbone):
        if backbone.config.model_type in TESTED:
            return []
        raise _refusal(backbone, "its weights or attention cannot run here, so it is not checked")
    with evaluating(backbone):
        return _checked_calls(backbone, layers[-num_head_layers:])


def _checked_calls(backbone: PreTrainedModel, head: list[nn.Module]) -> list[LayerCall]:
    ids = torch.tensor([[1, 2]], device=backbone.device)
    outputs: list[Tensor] = []
    hook = head[-1].register_forward_hook(lambda _, __, out: outputs.append(_first(out)))
    try:
        with recorded_calls(head) as calls:
            final = decoder_of(backbone)(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        hook.remove()
    if [call.layer for call in calls] != head:
        raise _refusal(backbone, "its last layers do not run once each and in order")
    if calls[0].hidden.dim() != 3:
        raise _refusal(backbone, "it has several residual streams")
    if not same(run_head(head, calls, calls[0].hidden), outputs[0]):
        raise _refusal(backbone, "its last layers depend on more than their arguments")
    if not same(final_hidden(backbone, outputs[0]), final):
        raise _refusal(backbone, "more than a norm known by name stands after its last layer")
    if not same(logits_of(backbone, final), backbone(ids, use_cache=False).logits):
        raise _refusal(backbone, "its logits are more than a scaled and capped unembedding")
    return calls


def _layer_list(decoder: Any) -> nn.ModuleList | None:
    found = (getattr(decoder, name, None) for name in _LAYERS)
    return next((layers for layers in found if isinstance(layers, nn.ModuleList)), None)


def _first(out: Any) -> Tensor:
    """Return the hidden states of what a layer returns."""
    return out[0] if isinstance(out, tuple | list) else out


def _can_run(backbone: PreTrainedModel) -> bool:
    if any(p.is_meta or p.numel() == 0 for p in backbone.parameters()):
        return False
    attention = str(getattr(backbone.config, "_attn_implementation", ""))
    return "flash" not in attention or backbone.device.type != "cpu"


def _refusal(backbone: PreTrainedModel, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{backbone.config.model_type} models cannot have future heads: {reason}. "
        "docs/families.md lists families that can."
    )
