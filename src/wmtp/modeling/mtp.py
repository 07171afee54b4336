"""A causal language model with future heads: trunk, H heads, one unembedding.

Legend: B batch, S sequence, H heads, D width, V vocabulary. Head k (from 0) at position t predicts the
token at t + k + 1. Parallel heads on a shared trunk are those of Gloeckle et al. 2024 (arXiv:2404.19737,
section 2); sequential ones, each on the one before it, those of DeepSeek-V3 (`wmtp.modeling.sequential`).
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from wmtp.errors import CheckpointError
from wmtp.losses import Backend
from wmtp.modeling.checkpoint import load_heads, read_heads, write_model
from wmtp.modeling.construct import heads_on
from wmtp.modeling.head_losses import HeadLosses
from wmtp.modeling.heads import HeadInit, HeadType, head_layers
from wmtp.modeling.layout import decoder_layers, logits_of
from wmtp.modeling.one_at_a_time import can_take_turns, weighted_in_turn
from wmtp.modeling.output import MTPOutput, Weigh
from wmtp.modeling.passes import Pass, run_backbone
from wmtp.modeling.sequential import SequentialHead
from wmtp.modeling.value import (
    CrossFittedValueHead,
    ValueHead,
    ValueHeadKind,
    new_value_head,
    value_of,
)
from wmtp.pretrained import load_causal_lm


class MTPModel(nn.Module):
    """A causal language model of transformers with `num_heads - 1` future heads.

    Next-token logits are exactly those of the backbone. With `parallel` heads, the trunk is all decoder
    layers but the last `num_head_layers`. Head 0 *is* those last layers; heads 1 to H-1 are as many
    further decoder layers each, on the same trunk output, with the same final norm. With `sequential`
    heads, the trunk is the whole backbone, head 0 reads its final hidden state, and each further head
    that of the head before and one token more. The unembedding is shared, and the value head reads the
    trunk's output. Build one with `from_backbone`, `from_config` or `from_pretrained`. docs/families.md
    lists the model families. `loss_backend` chooses the code of the cross entropy, see
    `linear_cross_entropy`.
    """

    # Tells transformers.Trainer that the loss is normalised by the number of targets of the step.
    accepts_loss_kwargs = True
    main_input_name = "input_ids"

    def __init__(
        self,
        backbone: PreTrainedModel,
        heads: nn.ModuleList,
        value_head: ValueHead | CrossFittedValueHead | None = None,
        num_head_layers: int = 1,
        head_type: HeadType = "parallel",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads
        self.head_type = head_type
        self.num_head_layers = num_head_layers
        self.value_head = value_head
        self.value_anchor: ValueHead | CrossFittedValueHead | None = None
        self.loss_backend: Backend = "auto"
        self._take_turns = False
        self._recompute_heads = False

    @property
    def num_heads(self) -> int:
        """H, head 0 included."""
        return len(self.heads) + 1

    @property
    def vocab_size(self) -> int:
        """V, the rows of the unembedding."""
        return int(self.backbone.get_output_embeddings().weight.shape[0])

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
        head_type: HeadType = "parallel",
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

        Sequential heads have one such layer each, with a projection and norms of their own around it
        (`SequentialHead`). A model that heads cannot be put on exactly is a `CheckpointError` that says
        why.
        """
        backbone = model_or_path
        if not isinstance(backbone, PreTrainedModel):
            backbone = load_causal_lm(backbone)
        heads = heads_on(backbone, num_heads, head_type, head_init, num_head_layers)
        return cls(backbone, heads, num_head_layers=num_head_layers, head_type=head_type)

    @classmethod
    def from_config(
        cls,
        config: PretrainedConfig,
        num_heads: int = 4,
        head_init: HeadInit = "random",
        num_head_layers: int = 1,
        head_type: HeadType = "parallel",
    ) -> MTPModel:
        """Return a randomly initialised model, by default with H independent heads."""
        backbone = AutoModelForCausalLM.from_config(config)
        return cls.from_backbone(backbone, num_heads, head_type, head_init, num_head_layers)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> MTPModel:
        """Load a folder written by `save_pretrained`; every tensor comes back bit for bit."""
        path = Path(path)
        settings, tensors = read_heads(path)
        model = cls.from_backbone(
            load_causal_lm(path, exactly=True),
            settings.num_heads,
            settings.head_type,
            num_head_layers=settings.num_head_layers,
        )
        if settings.value_head is not None:
            model.add_value_head(
                settings.value_head, settings.value_trains_trunk, settings.value_folds
            )
        if settings.value_anchored:
            model.anchor_value()
        load_heads(model, tensors, path)
        return model

    def add_value_head(self, kind: ValueHeadKind, train_trunk: bool, num_folds: int = 1) -> None:
        """Give the model a fresh value head, or one for each fold, in place of the one it may have."""
        hidden_size = self.config.get_text_config().hidden_size
        head = new_value_head(hidden_size, kind, train_trunk, num_folds)
        self.value_head = head.to(device=self.device)

    def anchor_value(self) -> None:
        """Keep a copy of the value head as it is now, which is not trained: `MTPOutput.value_anchor`."""
        assert self.value_head is not None
        if self.value_anchor is None:
            self.value_anchor = copy.deepcopy(self.value_head).requires_grad_(False)
        self.value_anchor.load_state_dict(self.value_head.state_dict())

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
        head_0_weights: Float[Tensor, "B S"] | None = None,
        with_predictions: bool = False,
        with_entropy: bool = False,
    ) -> MTPOutput:
        """Return `ce [B,S,H]` (nats, float32, 0 where the label is -100) and `value [B,S]`.

        Without labels, `logits [B,S,V]` of head 0 come instead of `ce`. `labels[b, t, k]` is the token
        at t + k + 1, as `horizon_labels` gives it; another number of heads is a `CheckpointError`.
        `weigh(value, value_anchor, ce_0)` gives constant weights `[B,S,H]` before the loss: `weighted_ce`
        then comes with the gradient, which needs less work than weighting `ce` afterwards. Where it needs
        `ce_0 [B,S]`, the cross entropy of head 0, `head_0_weights` says what head 0 weighs: targets of the
        other heads with weight 0 are then never computed, and their `ce` is 0.
        `with_predictions` adds the likeliest token of every head, computed one head at a time;
        `with_entropy` the entropy of its distribution, for weights that are not known before.
        """
        if labels is None:
            run = self._run(input_ids, attention_mask, position_ids)
            value, anchor = self._values(run, None)
            return MTPOutput(
                logits=logits_of(self.backbone, run.first), value=value, value_anchor=anchor
            )
        if labels.shape[-1] != self.num_heads:
            raise CheckpointError(
                f"labels have {labels.shape[-1]} heads, the model has {self.num_heads}. "
                f"Set model.num_heads to {self.num_heads}."
            )
        if labels.shape[:2] != input_ids.shape:
            raise ValueError(
                f"labels {list(labels.shape)} must be [B, S, H] for input_ids {list(input_ids.shape)}"
            )
        in_turn = weigh is not None and not with_predictions and self._may_take_turns()
        run = self._run(input_ids, attention_mask, position_ids, in_turn)
        hidden = [] if run.detached else self._hidden(run)
        value, anchor = self._values(run, labels)
        losses = self._losses()
        known = None if weigh is None else functools.partial(weigh, value, anchor)
        total: Tensor | None
        if run.detached:
            assert known is not None
            total, ce = weighted_in_turn(
                run, self._all_heads(), self.backbone, losses, labels, known, head_0_weights
            )
            return MTPOutput(ce, total, None, value, anchor)
        total, ce, entropy = losses.measured(hidden, labels, known, head_0_weights, with_entropy)
        predictions = None
        if with_predictions:
            likeliest = (logits_of(self.backbone, head).argmax(-1) for head in hidden)
            predictions = torch.stack(list(likeliest), dim=2)
        return MTPOutput(ce, total, predictions, value, anchor, entropy=entropy)

    def values(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
        labels: Int[Tensor, "B S H"] | None = None,
    ) -> Float[Tensor, "B S *K"] | None:
        """Return `MTPOutput.value` alone; labels are for a value head that reads surprise."""
        return self._values(self._run(input_ids, attention_mask, position_ids), labels)[0]

    def hidden_states(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
    ) -> list[Float[Tensor, "B S D"]]:
        """Return what the unembedding reads of every head."""
        return self._hidden(self._run(input_ids, attention_mask, position_ids))

    def head_logits(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B S H V"]:
        """Return the logits of all heads. They are large: for analysis and tests."""
        hidden = self.hidden_states(input_ids, attention_mask, position_ids)
        return torch.stack([logits_of(self.backbone, head) for head in hidden], dim=2)

    @torch.no_grad()
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate with head 0 alone, as `transformers` does; see `GenerationMixin.generate`."""
        backbone: Any = self.backbone
        return backbone.generate(*args, **kwargs)

    def checkpoint_activations(self, part: Literal["heads", "all"]) -> None:
        """Save the memory of activations: of the heads, or of every decoder layer.

        With `heads`, memory hardly grows with H. Where weights are known before the loss, parallel heads
        take turns (`wmtp.modeling.one_at_a_time`), which costs no time; else the activations of heads 1
        to H-1 are recomputed in the backward. `all` does the same, and recomputes every layer.
        """
        self._take_turns = True
        if part == "heads":
            self._recompute_heads = True
            return
        settings = {"use_reentrant": False}
        backbone: Any = self.backbone
        if hasattr(backbone, "activation_checkpointing_enable"):
            backbone.activation_checkpointing_enable(settings)
        else:  # its older name, before transformers 5.23
            backbone.gradient_checkpointing_enable(settings)
        for head in self.heads:
            layers = [head.block] if isinstance(head, SequentialHead) else head_layers(head)
            for layer, like in zip(layers, self._head_0(), strict=True):
                layer.gradient_checkpointing = like.gradient_checkpointing
                layer._gradient_checkpointing_func = like._gradient_checkpointing_func

    def _head_0(self) -> list[nn.Module]:
        """Return the last layers of the backbone; parallel head 0 is these."""
        return decoder_layers(self.backbone)[-self.num_head_layers :]

    def _all_heads(self) -> list[list[nn.Module]]:
        """Return the decoder layers of every parallel head."""
        return [self._head_0(), *(list(head_layers(head)) for head in self.heads)]

    def _may_take_turns(self) -> bool:
        if not (self._take_turns and self.training and torch.is_grad_enabled()):
            return False
        return self.head_type == "parallel" and can_take_turns(self.backbone, self._all_heads())

    def _run(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        detach: bool = False,
    ) -> Pass:
        inputs = (input_ids, attention_mask, position_ids)
        return run_backbone(self.backbone, self._head_0(), self.head_type, *inputs, detach)

    def _hidden(self, run: Pass) -> list[Tensor]:
        """Return the normed hidden states `[B,S,D]` of every head."""
        hidden = [run.first]
        for k, head in enumerate(self.heads, start=1):
            if self._recompute_heads and self.training and torch.is_grad_enabled():
                hidden.append(checkpoint(run.step, head, k, hidden[-1], use_reentrant=False))
            else:
                hidden.append(run.step(head, k, hidden[-1]))
        return hidden

    def _losses(self) -> HeadLosses:
        return HeadLosses.under(self.backbone, self.loss_backend)

    def _values(self, run: Pass, labels: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return V of every state by the value head, and by its anchor."""
        surprise = None
        if labels is not None and self.value_head is not None and self.value_head.reads_surprise:
            surprise = self._losses().surprise(run.first, labels[..., 0])
        return (
            value_of(self.value_head, run.trunk, surprise),
            value_of(self.value_anchor, run.trunk, surprise),
        )
