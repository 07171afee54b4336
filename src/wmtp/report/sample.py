"""One example as the model sees it: its tokens, what is learned of them, and the targets of heads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from wmtp.data.collate import Collate
from wmtp.data.encode import Boundary, Encoded, Truncation, encode_examples
from wmtp.data.example import Example
from wmtp.data.templates import frame
from wmtp.losses import IGNORE_INDEX

Part = Literal["prompt", "learned", "cut"]
UNBOUNDED = 1 << 40  # longer than any text in tokens

# Colour is never the only sign: parts have headings, faults brackets, targets words.
STYLES: dict[Part, str] = {"prompt": "dim", "learned": "default", "cut": "dim strike"}
FAULT_STYLE = "bold white on red"
HEADINGS: dict[Part, str] = {
    "prompt": "prompt: read, not learned",
    "learned": "completion: learned",
    "cut": "cut off: longer than max_length, never seen",
}
LEGEND = "│ token boundary   · space   ↵ line end   ⇥ tab   ⟦ ⟧ planted fault"
_VISIBLE = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}


@dataclass(frozen=True, slots=True)
class Token:
    """One token. targets: places of the tokens that heads 0, 1, ... predict here; None for none."""

    text: str
    part: Part
    is_fault: bool
    targets: tuple[int | None, ...]
    ref_ce: float | None = None


@dataclass(frozen=True, slots=True)
class SampleView:
    """An example in tokens, those past `max_length` too. left_out: why training does without it."""

    example: Example
    tokens: tuple[Token, ...]
    max_length: int
    left_out: str = ""


def sample_view(
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_heads: int,
    max_length: int = UNBOUNDED,
    boundary: Boundary = "split",
    truncation: Truncation = "cut",
    ref_ce: list[float] | None = None,
) -> SampleView:
    """Return the tokens of an example and the targets that training gives them.

    An example of which nothing is learned, because its prompt fills `max_length` or `truncation` leaves
    it out, has no targets. An empty completion is a `DataError`. ref_ce: nats of each token that is seen.
    """
    encode = partial(
        encode_examples, [example], tokenizer, where=example.task_id, boundary=boundary
    )
    whole = encode(max_length=UNBOUNDED).items[0]
    texts = _texts(whole, tokenizer, boundary)
    seen, left_out = min(len(whole), max_length), ""
    if seen < len(whole) and truncation != "cut":
        seen, left_out = 0, f"it is longer than max_length, and data.truncation is {truncation}"
    elif not whole.completion[:seen].any():
        left_out = "the prompt fills max_length, and nothing is left to learn"
    labels = [[IGNORE_INDEX] * num_heads] * len(whole)
    if not left_out:
        item = encode(max_length=max_length).items[0]
        pad = int(tokenizer.pad_token_id or 0)
        labels[:seen] = Collate(num_heads, pad)([(0, item)])["labels"][0, :seen].tolist()
    tokens = []
    for place, row in enumerate(labels):
        part: Part = "learned" if whole.completion[place] else "prompt"
        part = "cut" if place >= seen else part
        targets = tuple(None if t == IGNORE_INDEX else place + k + 1 for k, t in enumerate(row))
        signal = ref_ce[place] if ref_ce is not None and place < seen else None
        tokens.append(Token(texts[place], part, bool(whole.fault[place]), targets, signal))
    return SampleView(example, tuple(tokens), max_length, left_out)


def _texts(item: Encoded, tokenizer: PreTrainedTokenizerBase, boundary: Boundary) -> list[str]:
    """Return the characters behind each token; several tokens of one character say which they are.

    A tokenizer that does not tell them, and tokens that no text stands behind, give their names.
    """
    ids = item.input_ids.tolist()
    found = list(map(str, tokenizer.convert_ids_to_tokens(ids)))
    if not tokenizer.is_fast:
        return found
    around = frame(item.example.prompt, tokenizer)
    pieces = [around.before, item.example.completion]
    pieces = pieces if boundary == "split" else ["".join(pieces)]
    place = int(around.starts)
    for text in [*pieces, around.after]:
        split = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        pairs = zip(split["input_ids"], split["offset_mapping"], strict=True)
        for (low, high), same in groupby(pairs, key=lambda pair: pair[1]):
            tokens = [token for token, _ in same]
            if ids[place : place + len(tokens)] != tokens:
                break  # what a template puts after the completion ends at the end token
            marks = [f"({n}/{len(tokens)})" for n in range(1, len(tokens) + 1)]
            for mark in marks if len(tokens) > 1 else [""]:
                found[place] = text[low:high] + mark
                place += 1
    return found


def visible(text: str) -> str:
    """Return `text` on one line, with white space and control characters shown."""
    shown = (_VISIBLE.get(c, c if c.isprintable() else f"\\x{ord(c):02x}") for c in text)
    return "".join(shown)


def render_sample(view: SampleView) -> RenderableType:
    """Return the example for a console: facts, its text in tokens, and a row for each target."""
    legend = Text(LEGEND, "dim")
    return Group(_facts(view), Text(), *_streams(view), legend, Text(), _Targets(view))


def _facts(view: SampleView) -> Table:
    example = view.example
    counts = {part: sum(token.part == part for token in view.tokens) for part in STYLES}
    faults = sum(token.is_fault for token in view.tokens)
    faults_cut = sum(token.is_fault for token in view.tokens if token.part == "cut")
    facts = {
        "task": example.task_id,
        "source": f"{example.source or 'unnamed'}, split {example.split}",
        "reward": "unknown" if example.reward is None else f"{example.reward:g}",
        "difficulty": "unknown" if example.difficulty is None else f"{example.difficulty:g}",
        "tests": "none" if example.tests is None else f"{len(example.tests.splitlines())} lines",
        "tokens": ", ".join(f"{count} {part}" for part, count in counts.items()),
    }
    if faults:
        facts["fault"] = f"in {faults} tokens, {faults_cut} of them cut off"
    if view.left_out:
        facts["left out"] = view.left_out
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, "bold"), Text(value))
    return table


def _streams(view: SampleView) -> list[RenderableType]:
    """Return the text of each part under its heading."""
    shown: list[RenderableType] = []
    for part, group in groupby(view.tokens, key=lambda token: token.part):
        text = Text()
        for token in group:
            cell = _cell(token)
            body = cell.plain.replace("↵", "↵\n")
            text.append(body.removesuffix("\n"), cell.style).append("│", "dim cyan")
            text.append("\n" * body.endswith("\n"))
        text.rstrip()
        shown += [Text(f"── {HEADINGS[part]} ──", "bold cyan"), text, Text()]
    return shown


class _Targets:
    """A table of what each head predicts, in several where the console is too narrow for all heads."""

    def __init__(self, view: SampleView) -> None:
        self.view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield tables of as many heads as fit beside each other, at least one."""
        heads = range(len(self.view.tokens[0].targets))
        unbounded = options.update(max_width=10_000)
        at_once = len(heads)
        while at_once > 1:
            table = _targets(self.view, heads[:at_once])
            if Measurement.get(console, unbounded, table).maximum <= options.max_width:
                break
            at_once -= 1
        for first in heads[::at_once]:
            yield Text("\n" * (first > 0), end="")
            yield _targets(self.view, heads[first : first + at_once])


def _targets(view: SampleView, heads: range) -> Table:
    """Return a row for each token that has a target; the others are counted."""
    has_signal = any(token.ref_ce is not None for token in view.tokens)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold cyan")
    table.add_column("place", justify="right", no_wrap=True, min_width=5)
    table.add_column("token", no_wrap=True)
    table.add_column("part", no_wrap=True, min_width=7)
    if has_signal:
        table.add_column("ref_ce", justify="right", min_width=6)
    for head in heads:
        table.add_column(f"head {head}", no_wrap=True, min_width=6)
    for has_target, group in groupby(
        enumerate(view.tokens), key=lambda pair: any(t is not None for t in pair[1].targets)
    ):
        rows = list(group)
        if not has_target:
            table.add_row("", Text(f"… {len(rows)} more", "dim"))
            continue
        for place, token in rows:
            cells = [_cell(token), Text("fault ✗" if token.is_fault else token.part)]
            if has_signal:
                cells.append(Text("" if token.ref_ce is None else f"{token.ref_ce:.2f}"))
            targets = [token.targets[head] for head in heads]
            cells += [Text("-", "dim") if t is None else _cell(view.tokens[t]) for t in targets]
            table.add_row(str(place), *cells)
    return table


def _cell(token: Token) -> Text:
    if token.is_fault:
        return Text(f"⟦{visible(token.text)}⟧", FAULT_STYLE)
    return Text(visible(token.text), STYLES[token.part])
