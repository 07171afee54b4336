"""A causal language model with future heads: trunk, H heads, one unembedding (Gloeckle et al. 2024).

Legend: B batch, S sequence, H heads, D width, V vocabulary. Head k (from 0) at position t predicts the
token at t + k + 1. ArXiv:2404.19737, section 2: parallel heads on a shared trunk.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from wmtp.errors import CheckpointError
from wmtp.losses import (
    linear_cross_entropy,
    logit_options,
    weighted_linear_cross_entropy,
)
from wmtp.modeling.checkpoint import read_heads, write_model
from wmtp.modeling.value import ValueHead

# The weights [B,S,H] of a batch, given the values [B,S] of its states where there is a value head.
Weigh = Callable[[Tensor | None], Tensor]


@dataclass
class MTPOutput:
    """What a forward gives: `ce [B,S,H]` with labels, `logits [B,S,V]` of head 0 without.

    weighted_ce: the sum of weights times `ce` where the weights were known before the loss; `ce` is then
    detached. value: V after reading each token, where there is a value head. predictions: the likeliest
    token of every head, when asked for.
    """

    ce: Float[Tensor, "B S H"] | None = None
    weighted_ce: Float[Tensor, ""] | None = None
    predictions: Int[Tensor, "B S H"] | None = None
    value: Float[Tensor, "B S"] | None = None
    logits: Float[Tensor, "B S V"] | None = None


class MTPModel(nn.Module):
    """Any Llama-like causal language model with `num_heads - 1` future heads.

    The trunk is all decoder layers but the last. Head 0 *is* the last layer, so that next-token logits
    are exactly those of the backbone; heads 1 to H-1 are further decoder layers on the same trunk
    output. The final norm and the unembedding are shared. Build one with `from_backbone`,
    `from_config` or `from_pretrained`.
    """

    # Tells transformers.Trainer that the loss is normalised by the number of targets of the step.
    accepts_loss_kwargs = True
    main_input_name = "input_ids"

    def __init__(
        self, backbone: PreTrainedModel, heads: nn.ModuleList, value_head: ValueHead | None = None
    ) -> None:
        super().__init__()
        _check_layout(backbone)
        self.backbone = backbone
        self.heads = heads
        self.value_head = value_head

    @property
    def num_heads(self) -> int:
        """H, head 0 included."""
        return len(self.heads) + 1

    @property
    def config(self) -> PretrainedConfig:
        """The backbone's configuration."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.backbone.device

    @classmethod
    def from_backbone(
        cls,
        model_or_path: PreTrainedModel | str | Path,
        num_heads: int = 4,
        head_type: Literal["parallel"] = "parallel",
    ) -> MTPModel:
        """Return a model around a causal language model; new heads start as copies of head 0.

        `model_or_path` is a transformers model, a folder or a hub id.
        """
        if head_type != "parallel":
            raise ValueError(f"head_type {head_type!r} is not supported; choose 'parallel'")
        backbone = model_or_path
        if not isinstance(backbone, PreTrainedModel):
            backbone = _load_backbone(backbone)
        _check_layout(backbone)
        heads = nn.ModuleList()
        for k in range(1, num_heads):
            head = copy.deepcopy(_layers(backbone)[-1])
            _set_layer_index(head, len(_layers(backbone)) - 1 + k)
            heads.append(head)
        return cls(backbone, heads)

    @classmethod
    def from_config(cls, config: PretrainedConfig, num_heads: int = 4) -> MTPModel:
        """Return a randomly initialised model with H independent head layers."""
        backbone = AutoModelForCausalLM.from_config(config)
        model = cls.from_backbone(backbone, num_heads)
        for head in model.heads:
            for module in head.modules():
                # Re-initialise leaf by leaf: what was copied from head 0 is marked as done.
                for tensor in module.parameters(recurse=False):
                    tensor._is_hf_initialized = False  # type: ignore[attr-defined]
                module._is_hf_initialized = False  # type: ignore[assignment]
                backbone._init_weights(module)
        return model

    @classmethod
    def from_pretrained(cls, path: str | Path) -> MTPModel:
        """Load a folder written by `save_pretrained`; every tensor comes back bit for bit."""
        path = Path(path)
        settings, tensors = read_heads(path)
        model = cls.from_backbone(_load_backbone(path), settings.num_heads)
        if settings.value_head is not None:
            model.add_value_head(settings.value_head, settings.value_trains_trunk)
        _load_exactly(model, tensors, path)
        return model

    def add_value_head(self, kind: Literal["linear", "mlp"], train_trunk: bool) -> None:
        """Give the model a fresh value head, in place of the one it may have."""
        head = ValueHead(self.config.hidden_size, kind, train_trunk)
        self.value_head = head.to(device=self.device)

    def save_pretrained(
        self, path: str | Path, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Write the checkpoint of SPEC 4 into the folder `path`.

        `AutoModelForCausalLM.from_pretrained(path)` loads it as the plain next-token model; future
        heads and value head are in a second safetensors file. `state_dict` replaces the model's own
        tensors (gathered from shards).
        """
        write_model(self, Path(path), state_dict)

    def forward(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
        labels: Int[Tensor, "B S H"] | None = None,
        weigh: Weigh | None = None,
        with_predictions: bool = False,
    ) -> MTPOutput:
        """Return `ce [B,S,H]` (nats, float32, 0 where the label is -100) and `value [B,S]`.

        Without labels, `logits [B,S,V]` of head 0 come instead of `ce`. `labels[b, t, k]` is the token
        at t + k + 1, as `horizon_labels` gives it; another number of heads is a `CheckpointError`.
        `weigh(value)` gives constant weights `[B,S,H]` before the loss: `weighted_ce` then comes with the
        gradient, which needs less work than weighting `ce` afterwards.
        `with_predictions` adds the likeliest token of every head, computed one head at a time.
        """
        if labels is None:
            hidden, trunk = self._hidden(input_ids, attention_mask, position_ids, num_heads=1)
            return MTPOutput(logits=self._logits(hidden[0]), value=self._value(trunk))
        if labels.shape[-1] != self.num_heads:
            raise CheckpointError(
                f"labels have {labels.shape[-1]} heads, the model has {self.num_heads}. "
                f"Set model.num_heads to {self.num_heads}."
            )
        hidden, trunk = self._hidden(input_ids, attention_mask, position_ids, self.num_heads)
        value = self._value(trunk)
        # All heads in one call, so that the unembedding's gradient is summed up once.
        heads_first = (2, 0, 1)
        unembedding = self.backbone.get_output_embeddings()
        targets = (
            torch.cat([head.flatten(0, 1) for head in hidden]),
            unembedding.weight,
            labels.permute(heads_first).flatten(),
        )
        options = {"bias": unembedding.bias, **logit_options(self.config)}
        total = None
        if weigh is None:
            ce = linear_cross_entropy(*targets, **options)
        else:
            weights = weigh(value).permute(heads_first).flatten()
            total, ce = weighted_linear_cross_entropy(*targets, weights, **options)
        ce = ce.view(self.num_heads, *labels.shape[:2]).permute(1, 2, 0)
        predictions = None
        if with_predictions:
            predictions = torch.stack([self._logits(head).argmax(-1) for head in hidden], dim=2)
        return MTPOutput(ce, total, predictions, value)

    def head_logits(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B S H V"]:
        """Return the logits of all heads. They are large: for analysis and tests."""
        hidden, _ = self._hidden(input_ids, attention_mask, position_ids, self.num_heads)
        return torch.stack([self._logits(head) for head in hidden], dim=2)

    @torch.no_grad()
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate with head 0 alone, as `transformers` does; see `GenerationMixin.generate`."""
        backbone: Any = self.backbone
        return backbone.generate(*args, **kwargs)

    def checkpoint_activations(self) -> None:
        """Recompute the activations of every decoder layer and head in the backward."""
        settings = {"use_reentrant": False}
        backbone: Any = self.backbone
        if hasattr(backbone, "activation_checkpointing_enable"):
            backbone.activation_checkpointing_enable(settings)
        else:  # its older name, before transformers 5.23
            backbone.gradient_checkpointing_enable(settings)
        last = _layers(backbone)[-1]
        for head in self.heads:
            head.gradient_checkpointing = last.gradient_checkpointing
            head._gradient_checkpointing_func = last._gradient_checkpointing_func

    def _hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        num_heads: int,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the normed hidden states `[B,S,D]` of the first heads, and the trunk's output."""
        decoder = self.backbone.get_decoder()
        seen: dict[str, Any] = {}

        def keep_inputs(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.update(args=args, kwargs=kwargs)

        # The last layer's own inputs serve every head: mask, rotary embedding and position come from
        # the family's code, whatever they look like.
        hook = _layers(self.backbone)[-1].register_forward_pre_hook(keep_inputs, with_kwargs=True)
        try:
            first = decoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=False,
            ).last_hidden_state
        finally:
            hook.remove()
        trunk = seen["args"][0]
        hidden = [first]
        for head in list(self.heads)[: num_heads - 1]:
            hidden.append(decoder.norm(head(*seen["args"], **seen["kwargs"])))
        return hidden, trunk

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self.backbone.get_output_embeddings()(hidden)
        if getattr(self.config, "logit_scale", None):
            logits = logits * self.config.logit_scale
        if getattr(self.config, "logits_scaling", None):
            logits = logits / self.config.logits_scaling
        softcap = getattr(self.config, "final_logit_softcapping", None)
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    def _value(self, trunk: Tensor) -> Tensor | None:
        return None if self.value_head is None else self.value_head(trunk)


def _layers(backbone: PreTrainedModel) -> nn.ModuleList:
    return backbone.get_decoder().layers


def _check_layout(backbone: PreTrainedModel) -> None:
    """Refuse a family whose decoder is not laid out as Llama's."""
    decoder = backbone.get_decoder()
    missing = [name for name in ("layers", "norm") if not hasattr(decoder, name)]
    if missing or backbone.get_output_embeddings() is None:
        raise CheckpointError(
            f"{backbone.config.model_type}: the decoder {type(decoder).__name__} has no "
            f"{' or '.join(missing) or 'unembedding'}. Future heads need a Llama-like decoder "
            "(layers, norm, lm_head), such as llama, mistral, qwen2, qwen3, olmo2 or smollm3."
        )
    if len(decoder.layers) < 2:
        raise CheckpointError(
            f"{backbone.config.model_type}: a model of {len(decoder.layers)} layer has no trunk; "
            "head 0 is the last layer. At least 2 layers are needed."
        )


def _set_layer_index(layer: nn.Module, index: int) -> None:
    """Number a copied layer, so that a key/value cache keeps its states apart."""
    for module in layer.modules():
        if hasattr(module, "layer_idx"):
            setattr(module, "layer_idx", index)  # noqa: B010 - a plain number, not a tensor


def _load_backbone(path: str | Path) -> PreTrainedModel:
    try:
        return AutoModelForCausalLM.from_pretrained(path, use_safetensors=True)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{path}: no causal language model could be loaded: {first} Expected a folder with "
            "config.json and safetensors weights, or a hub id (with network access)."
        ) from error


def _load_exactly(model: MTPModel, tensors: dict[str, Tensor], path: Path) -> None:
    wanted = {k for k in model.state_dict() if not k.startswith("backbone.")}
    if wanted != set(tensors):
        odd = sorted(wanted ^ set(tensors))
        raise CheckpointError(
            f"{path}: the future heads do not fit the model: {len(odd)} tensors differ, such as "
            f"{odd[0]}. The folder mixes files of two checkpoints; write it again."
        )
    try:
        model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from error
