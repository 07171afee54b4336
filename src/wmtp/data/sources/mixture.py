"""Several sources as one."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from wmtp.data.example import Example
from wmtp.data.sources.base import Source


class Mixture(Source[Any]):
    """The examples of several parts; each bears the name of its part as `source`.

    parts: name to source and weight. Example m (from 0) of a part of weight w stands at (m + 1/2) / w,
    so that any beginning holds the parts in the shares of their weights, as long as they last.
    """

    def __init__(self, parts: Mapping[str, tuple[Source[Any], float]]) -> None:
        self.parts = parts
        self.notices = []
        for part, _ in parts.values():
            part.notices = self.notices

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the examples of one split, which every part must have."""
        streams = (_placed(name, *part, split) for name, part in self.parts.items())
        for _, example in heapq.merge(*streams, key=lambda placed: placed[0]):
            yield example


def _placed(
    name: str, part: Source[Any], weight: float, split: str
) -> Iterator[tuple[float, Example]]:
    for m, example in enumerate(part.examples(split)):
        yield (m + 0.5) / weight, replace(example, source=name)
