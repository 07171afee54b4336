"""Named sampling settings, so that two numbers under one name are comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """How completions are drawn, `num_samples` per task.

    temperature: 0 takes the likeliest token. top_p: probability of the set that is drawn from, 1 for all
    tokens. ks: the k of the reported pass@k. grid: temperatures to draw `num_samples` at, one after the
    other, in place of `temperature`; each pass@k is that of its best one. benchmark_settings: what the
    protocol fixes, by benchmark.
    """

    name: str
    num_samples: int
    temperature: float
    top_p: float
    ks: tuple[int, ...]
    grid: tuple[float, ...] = ()
    benchmark_settings: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def at(self, temperature: float) -> Protocol:
        """Return the protocol at one temperature of its grid."""
        return replace(self, temperature=temperature, grid=())

    def __post_init__(self) -> None:
        assert self.temperature >= 0, self
        assert 0 < self.top_p <= 1, self


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("greedy", num_samples=1, temperature=0.0, top_p=1.0, ks=(1,)),
        Protocol("notes", num_samples=20, temperature=0.2, top_p=0.95, ks=(1, 5, 10)),
        Protocol("sample-10", num_samples=10, temperature=0.8, top_p=0.95, ks=(1, 5, 10)),
        # Gloeckle et al. 2024 (arXiv:2404.19737): pass@1, 10 and 100, and in appendix F the best
        # temperature for each k, of 0.5 to 0.9. 0.2 is what Chen et al. 2021 found best for k = 1.
        Protocol(
            "meta-mtp",
            num_samples=200,
            temperature=0.2,
            top_p=0.95,
            ks=(1, 10, 100),
            grid=(0.2, 0.5, 0.6, 0.7, 0.8, 0.9),
            benchmark_settings=MappingProxyType({"mbpp": {"num_shots": 3}}),
        ),
    )
}
