"""Between the rows that a model computes and the documents that algorithms look at.

Legend: R rows, L their length; D documents, S the longest of them. Where documents are padded, each
has a row of its own and both are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Which tokens of the rows are those of each document.

    places: index of every token in the rows one after the other, -1 past the end of its document; None
    where each document has a row of its own.
    """

    places: Int[Tensor, "D S"] | None

    @classmethod
    def of(cls, inputs: dict[str, Any]) -> Documents:
        """Return those of a collated batch."""
        return cls(inputs.get("places"))

    def from_rows(self, values: Tensor) -> Tensor:
        """Return `values [R,L,...]` by document, `[D,S,...]`, 0 past the end of each."""
        if self.places is None:
            return values
        found = values.flatten(0, 1)[self.places.clamp(min=0)]
        ends = (self.places < 0).view(*self.places.shape, *[1] * (values.dim() - 2))
        return found.masked_fill(ends, 0)

    def to_rows(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Return `values [D,S,...]` by row, `[R,L,...]` with `shape[:2]` rows and length, else 0."""
        if self.places is None:
            return values
        there = self.places >= 0
        out = values.new_zeros(shape[0] * shape[1], *values.shape[2:])
        out[self.places[there]] = values[there]
        return out.view(*shape[:2], *values.shape[2:])
