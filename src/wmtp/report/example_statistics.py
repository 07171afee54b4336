"""What a set of examples holds, in numbers: lengths, rewards, what is cut, what repeats."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from wmtp.data.encode import Boundary, Encoded, Truncation, encode_examples
from wmtp.data.example import Example
from wmtp.report.sample import UNBOUNDED

CHUNK = 512


@dataclass
class ExampleStatistics:
    """Counts over examples; `add` fills them.

    longer: than max_length. dropped: no target within it. faults: with a planted fault; of
    these, faults_cut have it past max_length. repeated: completions that stand under their prompt
    more than once. contradicting: those of them with different rewards.
    """

    max_length: int
    num_examples: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    rewards: Counter[str] = field(default_factory=Counter)
    tasks: set[str] = field(default_factory=set)
    prompt_tokens: list[int] = field(default_factory=list)
    completion_tokens: list[int] = field(default_factory=list)
    longer: int = 0
    dropped: int = 0
    empty: int = 0
    faults: int = 0
    faults_cut: int = 0
    repeated: int = 0
    contradicting: int = 0
    _reward_of: dict[bytes, float | None] = field(default_factory=dict)

    def add(self, example: Example) -> None:
        """Count what needs no tokens."""
        self.num_examples += 1
        self.splits[example.split] += 1
        self.rewards["unknown" if example.reward is None else f"{example.reward:g}"] += 1
        self.tasks.add(example.task_id)
        self.empty += not example.completion
        text = f"{len(example.prompt)} {example.prompt}{example.completion}"
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if key in self._reward_of:
            self.repeated += 1
            self.contradicting += self._reward_of[key] != example.reward
        self._reward_of.setdefault(key, example.reward)

    def add_tokens(self, item: Encoded) -> None:
        """Count the tokens of a sequence that was not cut."""
        first = int(item.completion.argmax())
        self.prompt_tokens.append(first)
        self.completion_tokens.append(len(item) - first)
        self.longer += len(item) > self.max_length
        self.dropped += first >= self.max_length
        if item.example.fault_spans:
            self.faults += 1
            self.faults_cut += not item.fault[: self.max_length].any()


def example_statistics(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = UNBOUNDED,
    boundary: Boundary = "split",
) -> ExampleStatistics:
    """Return the statistics of examples, holding `CHUNK` of them at a time."""
    statistics = ExampleStatistics(max_length)
    rest = iter(examples)
    while chunk := list(islice(rest, CHUNK)):
        for example in chunk:
            statistics.add(example)
        if usable := [example for example in chunk if example.completion]:
            data = encode_examples(usable, tokenizer, UNBOUNDED, "the examples", boundary=boundary)
            for item in data.items:
                statistics.add_tokens(item)
    return statistics


def render_statistics(found: ExampleStatistics, truncation: Truncation = "cut") -> RenderableType:
    """Return the statistics for a console."""
    fate = {
        "cut": f"cut, {_share(found.dropped, found)} of them with nothing left to learn",
        "drop": "longer and left out",
        "error": "longer, which is an error",
    }
    limit = "no limit" if found.max_length >= UNBOUNDED else f"{found.max_length} tokens"
    facts = {
        "examples": f"{found.num_examples} of {len(found.tasks)} problems",
        "splits": _counted(found.splits),
        "rewards": _counted(found.rewards),
        "prompt tokens": _quantiles(found.prompt_tokens),
        "learned tokens": _quantiles(found.completion_tokens),
        "max_length": f"{limit}: {_share(found.longer, found)} {fate[truncation]}",
        "planted faults": f"{_share(found.faults, found)} have one; cut off in {found.faults_cut}",
        "repeated": f"{_share(found.repeated, found)} repeat prompt and completion of another, "
        f"{found.contradicting} with another reward",
    }
    if found.empty:
        facts["empty"] = f"{_share(found.empty, found)} have no completion"
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, "bold"), Text(value))
    return Group(Text("── all examples ──", "bold cyan"), table)


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counter.items()))


def _share(count: int, found: ExampleStatistics) -> str:
    return f"{count} ({100 * count / max(1, found.num_examples):.1f} %)"


def _quantiles(lengths: list[int]) -> str:
    if not lengths:
        return "none"
    low, middle, high = np.quantile(lengths, [0.05, 0.5, 0.95])
    return f"median {middle:.0f}, 90 % in {low:.0f} to {high:.0f}, longest {max(lengths)}"
