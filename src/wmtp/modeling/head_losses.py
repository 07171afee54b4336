"""The losses of all heads from their hidden states, in the order that costs least.

Legend: B batch, S sequence, H heads, D width, V vocabulary. Hidden states are a list of `[B,S,D]`, one per
head; all else of the heads is `[B,S,H]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from wmtp.losses import (
    IGNORE_INDEX,
    Backend,
    linear_cross_entropy,
    linear_cross_entropy_and_entropy,
    weighted_linear_cross_entropy,
)
from wmtp.modeling.layout import logit_options

_HEADS_FIRST = (2, 0, 1)
_HEADS_LAST = (1, 2, 0)


@dataclass(frozen=True)
class HeadLosses:
    """Cross entropies under one unembedding `[V,D]`; `options` are those of `linear_cross_entropy`.

    All heads go in one call, so that the unembedding's gradient is summed up once.
    """

    unembedding: Tensor
    options: dict[str, Any]

    @classmethod
    def under(cls, backbone: PreTrainedModel, backend: Backend) -> HeadLosses:
        """Return the losses under the unembedding of a model, with all that is done to its logits."""
        unembedding = backbone.get_output_embeddings()
        options = {"bias": unembedding.bias, **logit_options(backbone.config), "backend": backend}
        return cls(unembedding.weight, options)

    def measured(
        self,
        hidden: list[Tensor],
        labels: Tensor,
        weigh: Callable[[Tensor | None], Tensor] | None,
        head_0_weights: Tensor | None,
        with_entropy: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Return the weighted sum, the cross entropies and the entropies, as far as they are asked for.

        `weigh(ce_0)` gives the weights where they are known before the losses: before all of them, or
        with `head_0_weights` after those of head 0.
        """
        if weigh is None and with_entropy:
            return None, *self.ce_and_entropy(hidden, labels)
        if weigh is None:
            return None, self.ce(hidden, labels), None
        if head_0_weights is None:
            return *self.weighted(hidden, labels, weigh(None)), None
        return *self.after_head_0(hidden, labels, head_0_weights, weigh), None

    def ce(self, hidden: list[Tensor], labels: Tensor) -> Tensor:
        """Return the cross entropies, with gradient."""
        ce = linear_cross_entropy(*self._targets(hidden, labels), **self.options)
        return _by_head(ce, labels)

    def ce_and_entropy(self, hidden: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross entropies, with gradient, and the entropies of the heads' distributions."""
        targets = self._targets(hidden, labels)
        ce, entropy = linear_cross_entropy_and_entropy(*targets, **self.options)
        return _by_head(ce, labels), _by_head(entropy, labels)

    def weighted(
        self, hidden: list[Tensor], labels: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of weights times cross entropies, with gradient, and the latter, without."""
        total, ce = weighted_linear_cross_entropy(
            *self._targets(hidden, labels), _flat(weights), **self.options
        )
        return total, _by_head(ce, labels)

    def after_head_0(
        self,
        hidden: list[Tensor],
        labels: Tensor,
        head_0_weights: Tensor,
        weigh: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the same as `weighted`, with the weights that `weigh(ce_0 [B,S])` gives the other heads.

        Their targets with weight 0 are left out: their cross entropy is never computed and given as 0.
        """
        batch, length, _ = labels.shape

        def further(ce_0: Tensor) -> Tensor:
            return _flat(weigh(ce_0.view(batch, length))[..., 1:])

        total, ce = weighted_linear_cross_entropy(
            *self._targets(hidden, labels),
            head_0_weights.flatten(),
            weigh_rest=further,
            **self.options,
        )
        return total, _by_head(ce, labels)

    @torch.no_grad()
    def surprise(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of head 0 by the token it is about `[B,S]`, NaN for tokens without one."""
        ce = self.ce([hidden], labels[..., None])[..., 0]
        known = ce.masked_fill(labels == IGNORE_INDEX, torch.nan)
        return torch.nn.functional.pad(known[:, :-1], (1, 0), value=torch.nan)

    def _targets(self, hidden: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.cat([head.flatten(0, 1) for head in hidden]), self.unembedding, _flat(labels)


def _flat(values: Tensor) -> Tensor:
    """Return `[B,S,H]` as one line, head after head."""
    return values.permute(_HEADS_FIRST).flatten()


def _by_head(values: Tensor, like: Tensor) -> Tensor:
    """Return what `_flat` made of a tensor of the shape of `like`."""
    return values.view(like.shape[2], *like.shape[:2]).permute(_HEADS_LAST)
