"""A causal language model with future heads: trunk, H heads, one unembedding (Gloeckle et al. 2024).

Legend: B batch, S sequence, H heads, D width, V vocabulary. Head k (from 0) at position t predicts the
token at t + k + 1. ArXiv:2404.19737, section 2: parallel heads on a shared trunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from wmtp.errors import CheckpointError
from wmtp.losses import linear_cross_entropy
from wmtp.modeling.checkpoint import read_heads, write_model
from wmtp.modeling.heads import HeadInit, head_layers, new_heads
from wmtp.modeling.layout import (
    decoder_layers,
    decoder_of,
    final_hidden,
    logit_options,
    logits_of,
    position_arguments,
    probe,
    recorded_calls,
    run_head,
)
from wmtp.modeling.value import ValueHead


@dataclass
class MTPOutput:
    """What a forward gives: `ce [B,S,H]` with labels, `logits [B,S,V]` of head 0 without.

    value: V after reading each token, where there is a value head. predictions: the likeliest token of
    every head, when asked for.
    """

    ce: Float[Tensor, "B S H"] | None = None
    predictions: Int[Tensor, "B S H"] | None = None
    value: Float[Tensor, "B S"] | None = None
    logits: Float[Tensor, "B S V"] | None = None


class MTPModel(nn.Module):
    """A causal language model of transformers with `num_heads - 1` future heads.

    The trunk is all decoder layers but the last `num_head_layers`. Head 0 *is* those last layers, so
    that next-token logits are exactly those of the backbone; heads 1 to H-1 are as many further decoder
    layers each, on the same trunk output. The final norm and the unembedding are shared. Build one with
    `from_backbone`, `from_config` or `from_pretrained`. docs/families.md lists the model families.
    """

    # Tells transformers.Trainer that the loss is normalised by the number of targets of the step.
    accepts_loss_kwargs = True
    main_input_name = "input_ids"

    def __init__(
        self,
        backbone: PreTrainedModel,
        heads: nn.ModuleList,
        value_head: ValueHead | None = None,
        num_head_layers: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads
        self.num_head_layers = num_head_layers
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
        head_init: HeadInit = "copy",
        num_head_layers: int = 1,
    ) -> MTPModel:
        """Return a model around a causal language model.

        `model_or_path` is a transformers model, a folder or a hub id. Each head has `num_head_layers`
        decoder layers. `head_init` says how heads 1 to H-1 start:

        - `copy`: as copies of head 0, so with its predictions of the next token.
        - `linear-residual`: as copies whose attention and feed-forward branches end in zero (the output
          projections, or the norms behind them where a family has those). The residual stream passes
          through unchanged: the head starts by reading its tokens from the trunk's state with the
          shared norm and unembedding, and learns from there what to add.
        - `random`: drawn anew by the family's own initialisation.

        A model that heads cannot be put on exactly is a `CheckpointError` that says why.
        """
        if head_type != "parallel":
            raise ValueError(f"head_type {head_type!r} is not supported; choose 'parallel'")
        if head_init not in get_args(HeadInit):
            raise ValueError(f"head_init {head_init!r} is none of {get_args(HeadInit)}")
        backbone = model_or_path
        if not isinstance(backbone, PreTrainedModel):
            backbone = _load_backbone(backbone)
        calls = probe(backbone, num_head_layers)
        heads = new_heads(backbone, num_heads, head_init, num_head_layers, calls)
        return cls(backbone, heads, num_head_layers=num_head_layers)

    @classmethod
    def from_config(
        cls,
        config: PretrainedConfig,
        num_heads: int = 4,
        head_init: HeadInit = "random",
        num_head_layers: int = 1,
    ) -> MTPModel:
        """Return a randomly initialised model, by default with H independent heads."""
        backbone = AutoModelForCausalLM.from_config(config)
        return cls.from_backbone(
            backbone, num_heads, head_init=head_init, num_head_layers=num_head_layers
        )

    @classmethod
    def from_pretrained(cls, path: str | Path) -> MTPModel:
        """Load a folder written by `save_pretrained`; every tensor comes back bit for bit."""
        path = Path(path)
        settings, tensors = read_heads(path)
        model = cls.from_backbone(
            _load_backbone(path), settings.num_heads, num_head_layers=settings.num_head_layers
        )
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
        with_predictions: bool = False,
    ) -> MTPOutput:
        """Return `ce [B,S,H]` (nats, float32, 0 where the label is -100) and `value [B,S]`.

        Without labels, `logits [B,S,V]` of head 0 come instead of `ce`. `labels[b, t, k]` is the token
        at t + k + 1, as `horizon_labels` gives it; another number of heads is a `CheckpointError`.
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
        unembedding = self.backbone.get_output_embeddings()
        ce = [
            linear_cross_entropy(
                head.flatten(0, 1),
                unembedding.weight,
                labels[:, :, k].flatten(),
                bias=unembedding.bias,
                **logit_options(self.config),
            ).view(labels.shape[:2])
            for k, head in enumerate(hidden)
        ]
        predictions = None
        if with_predictions:
            predictions = torch.stack([self._logits(head).argmax(-1) for head in hidden], dim=2)
        return MTPOutput(torch.stack(ce, dim=2), predictions, self._value(trunk))

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
        for head in self.heads:
            for layer, like in zip(head_layers(head), self._head_0(), strict=True):
                layer.gradient_checkpointing = like.gradient_checkpointing
                layer._gradient_checkpointing_func = like._gradient_checkpointing_func

    def _head_0(self) -> list[nn.Module]:
        """Return the layers of head 0, the last ones of the backbone."""
        return decoder_layers(self.backbone)[-self.num_head_layers :]

    def _hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        num_heads: int,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the normed hidden states `[B,S,D]` of the first heads, and the trunk's output."""
        decoder = decoder_of(self.backbone)
        # What the family's own code passes to the layers of head 0 (mask, rotary embedding, positions)
        # serves those of every head.
        with recorded_calls(self._head_0()) as calls:
            first = decoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                use_cache=False,
                **position_arguments(decoder, position_ids),
            ).last_hidden_state
        trunk = calls[0].hidden
        hidden = [first]
        for head in list(self.heads)[: num_heads - 1]:
            hidden.append(final_hidden(self.backbone, run_head(head_layers(head), calls, trunk)))
        return hidden, trunk

    def _logits(self, hidden: Tensor) -> Tensor:
        return logits_of(self.backbone, hidden)

    def _value(self, trunk: Tensor) -> Tensor | None:
        return None if self.value_head is None else self.value_head(trunk)


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
