"""Key/value caches of completions that are drawn side by side, each row at a length of its own."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from wmtp.modeling.layout import decoder_of, takes_positions

# Columns that are left free when buffers are made, so that moving rows to new ones is rare.
_SLACK = 128


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt that the model has read: its length, its cache, and the logits `[1,V]` that follow."""

    length: int
    cache: Cache
    logits: Float[Tensor, "1 V"]

    @property
    def has_plain_layers(self) -> bool:
        """Whether the cache holds keys and values alone: no recurrent or convolutional states."""
        plain = (DynamicLayer, DynamicSlidingWindowLayer)
        return all(type(layer) in plain for layer in self.cache.layers)


class Rows(Protocol):
    """Completions under way, one in each of `size` slots."""

    size: int

    def place(self, slot: int, prompt: Prompt) -> None:
        """Begin a completion of `prompt` in a slot; what was there is forgotten."""

    def step(self, tokens: Mapping[int, int]) -> Float[Tensor, "B V"]:
        """Append a token to each of these slots; return the next logits of all, idle slots' undefined."""


class Reader:
    """A causal language model of transformers that reads tokens into a cache."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        names = inspect.signature(backbone.forward).parameters
        self.backbone = backbone
        self._cache_name = "past_key_values" if "past_key_values" in names else "cache_params"
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in names else {}
        self._takes_positions = takes_positions(decoder_of(backbone))

    @torch.inference_mode()
    def prompt(self, ids: Sequence[int]) -> Prompt:
        """Return what the model makes of a prompt, read alone so that nothing else bears on it."""
        cache = DynamicCache(config=self.backbone.config)
        logits = self.logits([list(ids)], cache)
        return Prompt(len(ids), cache, logits)

    def logits(
        self,
        ids: list[list[int]],
        cache: Cache,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Float[Tensor, "B V"]:
        """Return the logits after the last of `ids [B,S]`; their states go into `cache`."""
        device = self.backbone.device
        arguments: dict[str, Any] = {self._cache_name: cache, **self._last_only}
        if mask is not None:
            arguments["attention_mask"] = mask.to(device)
        if positions is not None and self._takes_positions:
            arguments["position_ids"] = positions.to(device)
        out = self.backbone(torch.tensor(ids, device=device), use_cache=True, **arguments)
        return out.logits[:, -1]


class PaddedRows:
    """Rows that share buffers: all end at the newest column, and shorter ones are padded on the left.

    A forward always has `size` rows, idle ones too.
    """

    def __init__(self, reader: Reader, size: int) -> None:
        self.size = size
        self._reader = reader
        self._lengths = [0] * size
        self._cache: _RowCache | None = None

    @torch.inference_mode()
    def place(self, slot: int, prompt: Prompt) -> None:
        """Begin a completion of `prompt` in a slot; what was there is forgotten."""
        if self._cache is None:
            self._cache = _RowCache(prompt.cache, self.size)
        self._lengths[slot] = 0
        self._cache.make_room(max(self._lengths), prompt.length)
        self._cache.copy(slot, prompt.cache)
        self._lengths[slot] = prompt.length

    @torch.inference_mode()
    def step(self, tokens: Mapping[int, int]) -> Float[Tensor, "B V"]:
        """Append a token to each of these slots; return the next logits of all, idle slots' undefined."""
        assert self._cache is not None
        slots = range(self.size)
        self._lengths = [self._lengths[slot] if slot in tokens else 0 for slot in slots]
        self._cache.open_column(max(self._lengths))
        # An idle row attends its own column, so that its numbers stay finite.
        self._lengths = [
            length + 1 if slot in tokens else 0 for slot, length in enumerate(self._lengths)
        ]
        lengths = torch.tensor(self._lengths).clamp(min=1)[:, None]
        width = self._cache.width
        mask = (torch.arange(width) >= width - lengths).long()
        ids = [[tokens.get(slot, 0)] for slot in slots]
        return self._reader.logits(ids, self._cache, mask, lengths - 1)


class OneRow:
    """A single row in the family's own cache, for what cannot share a batch."""

    size = 1

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._length = 0
        self._cache: Cache | None = None

    @torch.inference_mode()
    def place(self, slot: int, prompt: Prompt) -> None:
        """Begin a completion of `prompt`."""
        self._length, self._cache = prompt.length, copy.deepcopy(prompt.cache)

    @torch.inference_mode()
    def step(self, tokens: Mapping[int, int]) -> Float[Tensor, "1 V"]:
        """Append a token; return the next logits."""
        assert self._cache is not None
        self._length += 1
        positions = torch.tensor([[self._length - 1]])
        return self._reader.logits([[tokens[0]]], self._cache, positions=positions)


class _RowCache(Cache):
    """Buffers `[rows, heads, columns, width]`, of which a forward sees the columns up to the newest."""

    def __init__(self, like: Cache, rows: int) -> None:
        self._window = _Window()
        self._buffers = [_RowLayer(self._window, layer, rows) for layer in like.layers]
        super().__init__(layers=list(self._buffers))
        self._move(0, 0)

    @property
    def width(self) -> int:
        """Columns that the next forward attends, its own included."""
        return self._window.stop - self._window.start

    def make_room(self, kept: int, length: int) -> None:
        """See to it that a prompt of `length` fits; `kept` is the longest row so far."""
        if length > self._window.stop:
            self._move(kept, length)

    def open_column(self, kept: int) -> None:
        """Open a column for the next tokens; `kept` is the longest row before them."""
        if self._window.stop == self._window.capacity:
            self._move(kept, kept)
        self._window.stop += 1
        self._window.start = self._window.stop - kept - 1

    def copy(self, slot: int, source: Cache) -> None:
        """Write the states of a prompt into a row, so that they end at the newest column."""
        for layer, states in zip(self._buffers, source.layers, strict=True):
            layer.copy(slot, states)

    def _move(self, kept: int, stop: int) -> None:
        """Take fresh buffers with the last `kept` columns of the old ones up to the column `stop`."""
        old, capacity = self._window.stop, stop + _SLACK
        for layer in self._buffers:
            layer.move(slice(old - kept, old), slice(stop - kept, stop), capacity)
        self._window.stop, self._window.capacity = stop, capacity


@dataclass
class _Window:
    """The columns that a forward sees, and how many there are."""

    start: int = 0
    stop: int = 0
    capacity: int = 0


class _RowLayer(CacheLayerMixin):
    is_sliding = False  # the mask hides what a sliding window has left behind
    keys: Tensor
    values: Tensor

    def __init__(self, window: _Window, like: Any, rows: int) -> None:
        super().__init__()
        self._window = window
        self.keys, self.values = (
            states.new_zeros((rows, states.shape[1], 0, states.shape[3]))
            for states in (like.keys, like.values)
        )
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """There is nothing to do: the buffers come with the layer."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the states of the newest column; return those of all that are seen."""
        start, stop = self._window.start, self._window.stop
        self.keys[:, :, stop - 1 : stop] = key_states
        self.values[:, :, stop - 1 : stop] = value_states
        return self.keys[:, :, start:stop], self.values[:, :, start:stop]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of columns that are seen, and the number of the first one."""
        return self._window.stop - self._window.start, 0

    def get_seq_length(self) -> int:
        """Return the number of columns before the newest."""
        return self._window.stop - self._window.start - 1

    def get_max_length(self) -> int:
        """Return -1: there is no bound."""
        return -1

    def copy(self, slot: int, source: Any) -> None:
        """Write the states of a prompt into a row, so that they end at the newest column."""
        stop = self._window.stop
        for buffer, states in ((self.keys, source.keys), (self.values, source.values)):
            buffer[slot, :, stop - states.shape[2] : stop] = states[0]

    def move(self, old: slice, new: slice, capacity: int) -> None:
        """Take fresh buffers of `capacity` columns with the columns `old` at the places `new`."""
        for name in ("keys", "values"):
            states = getattr(self, name)
            # Zeros, not what memory holds: a hidden value counts 0 times, which would not undo a NaN.
            fresh = states.new_zeros((*states.shape[:2], capacity, states.shape[3]))
            fresh[:, :, new] = states[:, :, old]
            setattr(self, name, fresh)
