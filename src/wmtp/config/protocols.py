"""Named sampling settings, so that two numbers under one name are comparable."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """How completions are drawn, `num_samples` per task.

    temperature: 0 takes the likeliest token. top_p: probability of the set that is drawn from, 1 for all
    tokens. ks: the k of the reported pass@k.
    """

    name: str
    num_samples: int
    temperature: float
    top_p: float
    ks: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.num_samples >= max(self.ks), self
        assert self.temperature >= 0, self
        assert 0 < self.top_p <= 1, self


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("greedy", num_samples=1, temperature=0.0, top_p=1.0, ks=(1,)),
        Protocol("notes", num_samples=20, temperature=0.2, top_p=0.95, ks=(1, 5, 10)),
        Protocol("sample-10", num_samples=10, temperature=0.8, top_p=0.95, ks=(1, 5, 10)),
    )
}
