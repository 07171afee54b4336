"""One example as the model sees it: its tokens, what is learned of them, and the targets of heads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from wmtp.data.collate import Collate
from wmtp.data.encode import Boundary, encode_examples
from wmtp.data.example import Example
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
    """An example in tokens, those past `max_length` too."""

    example: Example
    tokens: tuple[Token, ...]
    max_length: int


def sample_view(
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_heads: int,
    max_length: int = UNBOUNDED,
    boundary: Boundary = "split",
    ref_ce: list[float] | None = None,
) -> SampleView:
    """Return the tokens of an example and the targets that training gives them.

    An example of which nothing is learned, because its prompt fills `max_length`, has no targets. An
    empty completion is a `DataError`. ref_ce: nats of each token that is seen.
    """
    encode = partial(
        encode_examples, [example], tokenizer, where=example.task_id, boundary=boundary
    )
    whole = encode(max_length=UNBOUNDED).items[0]
    texts = _texts(whole.input_ids.tolist(), whole.completion.tolist(), example, tokenizer)
    seen = min(len(whole), max_length)
    labels = [[IGNORE_INDEX] * num_heads] * len(whole)
    if whole.completion[:seen].any():
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
    return SampleView(example, tuple(tokens), max_length)


def _texts(
    ids: list[int], completion: list[bool], example: Example, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Return the characters behind each token; several tokens of one character say which they are."""
    first = completion.index(True)
    found = list(map(str, tokenizer.convert_ids_to_tokens(ids)))
    for start, text in ((1, example.prompt), (first, example.completion)):
        split = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        number = len(split["input_ids"])
        if ids[start : start + number] != split["input_ids"]:
            continue  # a template stands around the text
        place = start
        for (low, high), same in groupby(split["offset_mapping"]):
            count = len(list(same))
            for part in range(1, count + 1):
                mark = f"({part}/{count})" if count > 1 else ""
                found[place] = text[low:high] + mark
                place += 1
    return found


def visible(text: str) -> str:
    """Return `text` on one line, with white space and control characters shown."""
    shown = (_VISIBLE.get(c, c if c.isprintable() else f"\\x{ord(c):02x}") for c in text)
    return "".join(shown)


def render_sample(view: SampleView) -> RenderableType:
    """Return the example for a console: facts, its text in tokens, and a row for each target."""
    return Group(_facts(view), Text(), *_streams(view), Text(LEGEND, "dim"), Text(), _targets(view))


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
    if not counts["learned"]:
        facts["dropped"] = "yes: the prompt fills max_length, and nothing is left to learn"
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


def _targets(view: SampleView) -> Table:
    """Return a row for each token that has a target; the others are counted."""
    num_heads = len(view.tokens[0].targets)
    has_signal = any(token.ref_ce is not None for token in view.tokens)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold cyan")
    table.add_column("place", justify="right", no_wrap=True)
    table.add_column("token", no_wrap=True)
    table.add_column("part", no_wrap=True, min_width=7)
    for head in range(num_heads):
        table.add_column(f"head {head}", no_wrap=True)
    if has_signal:
        table.add_column("ref_ce", justify="right")
    for has_target, group in groupby(
        enumerate(view.tokens), key=lambda pair: any(t is not None for t in pair[1].targets)
    ):
        rows = list(group)
        if not has_target:
            table.add_row("", Text(f"… {len(rows)} more", "dim"))
            continue
        for place, token in rows:
            cells = [_cell(token), Text("fault ✗" if token.is_fault else token.part)]
            cells += [
                Text("-", "dim") if target is None else _cell(view.tokens[target])
                for target in token.targets
            ]
            if has_signal:
                cells.append(Text("" if token.ref_ce is None else f"{token.ref_ce:.2f}"))
            table.add_row(str(place), *cells)
    return table


def _cell(token: Token) -> Text:
    if token.is_fault:
        return Text(f"⟦{visible(token.text)}⟧", FAULT_STYLE)
    return Text(visible(token.text), STYLES[token.part])
