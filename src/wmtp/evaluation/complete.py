"""Completions of many prompts with a fixed number of rows: a row that ends is filled with new work.

A prompt is read once for all of its samples, and every sample has random numbers of its own. On a CPU
what a sample becomes depends on nothing else: a forward always has the same number of rows, attention
goes row by row, and `_rows_agree` checks, on this model and machine, that a row's logits are the same to
the last bit in every slot and any company. Where it finds otherwise, and for families whose layers mix
rows or hold recurrent states, rows are drawn one after the other.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wmtp.config.protocols import Protocol
from wmtp.errors import GenerationError
from wmtp.evaluation.extraction import cut_at_stop
from wmtp.evaluation.row_attention import attention_by_row
from wmtp.evaluation.rows import OneRow, PaddedRows, Prompt, Reader, Rows
from wmtp.evaluation.sampling import draw, uniforms
from wmtp.modeling.layout import evaluating

_log = logging.getLogger(__name__)

# Rows of every forward on a CPU: more are no faster there, and results must not depend on the number.
CPU_ROWS = 16
ACCELERATOR_ROWS = 64


@dataclass(frozen=True)
class Request:
    """One sample to draw: the task, the sample's number, and the tokens of the prompt."""

    task_id: str
    sample_id: int
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """What was drawn. finish: `end` (end token), `stop` (stop string) or `length` (no room left)."""

    request: Request
    text: str
    finish: str


class Endings:
    """Where completions end: at an end token, before a stop string, or after a number of tokens."""

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        stop: tuple[str, ...],
        max_new_tokens: int,
    ) -> None:
        own = backbone.generation_config.eos_token_id if backbone.generation_config else None
        ends = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
        self.end_tokens = {int(token) for token in ends if token is not None}
        self.max_new_tokens = max_new_tokens
        self._tokenizer = tokenizer
        self._stop = stop
        # A token has at least one byte, but for special ones, and the first may lose its space.
        self._tail = max((len(s.encode()) for s in stop), default=0) + 4

    def text(self, ids: list[int]) -> str:
        """Return the text of a completion, without its end token or what a stop string begins."""
        return cut_at_stop(
            self._decode(ids[:-1] if ids[-1] in self.end_tokens else ids), self._stop
        )

    def finish(self, ids: list[int]) -> str | None:
        """Return how a completion has ended with its newest token, None while it goes on."""
        if ids[-1] in self.end_tokens:
            return "end"
        if self._stops(ids[-self._tail :]) and self._stops(ids):
            return "stop"
        return "length" if len(ids) == self.max_new_tokens else None

    def _stops(self, ids: list[int]) -> bool:
        text = self._decode(ids) if self._stop else ""
        return any(s in text for s in self._stop)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def complete(
    backbone: PreTrainedModel,
    requests: Iterable[Request],
    protocol: Protocol,
    endings: Endings,
    *,
    seed: int,
    rows: int | None = None,
) -> Iterator[Completion]:
    """Yield a completion of each request, as they end.

    rows: completions under way at a time, by default 64 on an accelerator and 16 on a CPU, where more
    count as 16. When an accelerator's memory does not hold them, they are halved and what was under way
    begins anew. NaN in the logits is a `GenerationError`, and so is a lack of memory for a single row.
    """
    waiting = deque(requests)
    on_cpu = backbone.device.type == "cpu"
    limit = min(rows or CPU_ROWS, CPU_ROWS) if on_cpu else rows or ACCELERATOR_ROWS
    with ExitStack() as stack:
        stack.enter_context(evaluating(backbone))
        reader = Reader(backbone)
        rows_of = _rows_for(reader, stack)
        while waiting:
            slots = rows_of(limit)
            limit = min(limit, slots.size)
            batch = _Batch(reader, slots, limit, protocol, endings, seed)
            try:
                yield from batch.run(waiting)
            except torch.OutOfMemoryError as error:
                waiting.extendleft(row.request for row in reversed(batch.active.values()))
                if limit == 1:
                    raise GenerationError(
                        f"{waiting[0].task_id}: the device's memory does not hold one completion of "
                        f"{len(waiting[0].prompt)} + {endings.max_new_tokens} tokens. Lower "
                        "evaluation.max_new_tokens, or choose another device."
                    ) from error
                limit //= 2
                _log.warning("out of memory: going on with %d rows at a time", limit)
            del batch, slots
            if waiting:
                torch.cuda.empty_cache()


@dataclass(eq=False)
class _Row:
    """A completion under way."""

    request: Request
    uniforms: np.ndarray
    ids: list[int] = field(default_factory=list)


class _Batch:
    """Rows that are filled from a queue until it is empty. active: what is under way, by slot."""

    def __init__(
        self,
        reader: Reader,
        rows: Rows,
        limit: int,
        protocol: Protocol,
        endings: Endings,
        seed: int,
    ) -> None:
        self.active: dict[int, _Row] = {}
        self._reader = reader
        self._rows = rows
        self._free = list(reversed(range(limit)))
        self._protocol = protocol
        self._endings = endings
        self._seed = seed
        self._read: tuple[tuple[int, ...], Prompt] | None = None

    def run(self, waiting: deque[Request]) -> Iterator[Completion]:
        """Yield completions until nothing is waiting or under way."""
        while waiting or self.active:
            while waiting and self._free:
                yield from self._begin(waiting)
            if self.active:
                tokens = {slot: row.ids[-1] for slot, row in self.active.items()}
                yield from self._append(self._rows.step(tokens), self.active)

    def _begin(self, waiting: deque[Request]) -> Iterator[Completion]:
        """Put the first of the queue into a free slot, with its first token."""
        request, slot = waiting.popleft(), self._free.pop()
        numbers = uniforms(
            self._seed, request.task_id, request.sample_id, self._endings.max_new_tokens
        )
        self.active[slot] = _Row(request, numbers)
        if self._read is None or self._read[0] != request.prompt:
            self._read = None  # its memory is free for the next one
            self._read = request.prompt, self._reader.prompt(request.prompt)
        prompt = self._read[1]
        self._rows.place(slot, prompt)
        yield from self._append(prompt.logits, {slot: self.active[slot]}, first=slot)

    def _append(
        self, logits: Tensor, rows: dict[int, _Row], first: int = 0
    ) -> Iterator[Completion]:
        """Draw a token for `rows`, of which slot s has the logits s - `first`; yield what has ended."""
        numbers = torch.zeros(len(logits))
        for slot, row in rows.items():
            numbers[slot - first] = float(row.uniforms[len(row.ids)])
        with torch.inference_mode():
            # NaN makes the largest NaN too.
            finite = logits.amax(-1).isfinite().tolist()
            protocol = self._protocol
            drawn = draw(
                logits, numbers.to(logits.device), protocol.temperature, protocol.top_p
            ).tolist()
        for slot, row in list(rows.items()):
            if not finite[slot - first]:
                raise GenerationError(
                    f"{row.request.task_id}, sample {row.request.sample_id}: the model's logits after "
                    f"{len(row.request.prompt)} + {len(row.ids)} tokens are not finite. Its weights are "
                    "damaged, or the device's precision is too low for it."
                )
            row.ids.append(drawn[slot - first])
            finish = self._endings.finish(row.ids)
            if finish is not None:
                del self.active[slot]
                self._free.append(slot)
                yield Completion(row.request, self._endings.text(row.ids), finish)


def _rows_for(reader: Reader, stack: ExitStack) -> Callable[[int], Rows]:
    """Return what makes slots for at most so many rows, as the family and the device allow."""
    backbone = reader.backbone
    one, many = lambda _: OneRow(reader), functools.partial(PaddedRows, reader)
    if not reader.prompt(_probe_ids(backbone, 2)).has_plain_layers:
        return one
    if backbone.device.type != "cpu":
        return many
    with ExitStack() as attempt:
        by_row = attempt.enter_context(attention_by_row(backbone))
        if by_row and not _mixes_rows(backbone) and _rows_agree(reader):
            stack.push(attempt.pop_all())
            return lambda _: many(CPU_ROWS)
    return one


def _mixes_rows(backbone: PreTrainedModel) -> bool:
    """Return whether tokens of several rows are gathered: for experts, each with as many as choose it."""
    return any(
        name.endswith("experts") or "experts" in type(module).__name__.lower()
        for name, module in backbone.named_modules()
    )


def _rows_agree(reader: Reader) -> bool:
    """Return whether a row's logits are the same to the last bit in every slot and any company.

    The order in which a kernel sums depends on shapes and addresses, not on numbers, so a few rows in
    all slots and in batches of other widths show it.
    """
    prompts = [reader.prompt(_probe_ids(reader.backbone, length)) for length in (2, 3, 7)]
    seen: dict[int, Tensor] = {}
    for company in ((0, 1), (1, 0), (0, 1, 2), (0,)):
        rows = PaddedRows(reader, CPU_ROWS)
        chosen = [company[slot % len(company)] for slot in range(CPU_ROWS)]
        for slot, which in enumerate(chosen):
            rows.place(slot, prompts[which])
        for token in (1, 2):
            logits = rows.step(dict.fromkeys(range(CPU_ROWS), token))
        for which, row in zip(chosen, logits, strict=True):
            if not torch.equal(seen.setdefault(which, row), row):
                return False
    return True


def _probe_ids(backbone: PreTrainedModel, length: int) -> list[int]:
    size = backbone.config.get_text_config().vocab_size
    return [(7 * place + length) % size for place in range(length)]
