"""Show examples as a recipe's model would see them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console, Group
from rich.text import Text
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from wmtp.config.load import Document, load_document
from wmtp.config.options import resolve_options
from wmtp.config.recipe import Recipe
from wmtp.data.encode import Boundary, Truncation, encode_examples
from wmtp.data.example import Example
from wmtp.data.reference import with_reference_ce
from wmtp.data.templates import use_template
from wmtp.data.tokenizer import load_tokenizer, train_tokenizer
from wmtp.errors import ConfigError, DataError, near_match
from wmtp.outputs import atomic_write_text
from wmtp.pipeline.data import make_source
from wmtp.pipeline.examples import ALL, named_examples, source_examples
from wmtp.registry import ALGORITHMS
from wmtp.report.example_statistics import example_statistics, render_statistics
from wmtp.report.sample import UNBOUNDED, render_sample, sample_view
from wmtp.run_folder import RunFolder, model_folder

NUM_HEADS = 4
BYTE_VOCABULARY = 259  # every byte, and the special tokens
PAGE_WIDTH = 120


@dataclass(frozen=True)
class Choice:
    """What to show, and how it becomes tokens. A recipe gives what is None here."""

    file: Path | None = None
    source: str | None = None
    settings: tuple[str, ...] = ()
    split: str | None = None
    tokenizer: str | None = None
    as_bytes: bool = False
    recipe: Path | None = None
    num_heads: int | None = None
    max_length: int | None = None
    index: int | None = None
    task_id: str | None = None


def inspect(choice: Choice, html: Path | None = None, console: Console | None = None) -> None:
    """Show the statistics of all examples chosen, and one of them in tokens.

    html: a page that gets the same. Without a tokenizer it is a `ConfigError` that says which there
    could be; none is trained. An index or task that there is not is a `DataError`.
    """
    transformers_logging.set_verbosity_error()
    document, recipe = _recipe(choice)
    tokenizer = _tokenizer(choice, recipe)
    boundary: Boundary = "split"
    truncation: Truncation = "cut"
    if recipe is not None:
        use_template(tokenizer, recipe.data.template)
        boundary, truncation = recipe.data.boundary, recipe.data.truncation
    max_length = choice.max_length or (recipe.data.max_length if recipe else UNBOUNDED)
    num_heads = choice.num_heads or (recipe.model.num_heads if recipe else NUM_HEADS)
    examples = list(_examples(choice, document, recipe))
    place = _place(choice, examples)
    as_seen = partial(
        sample_view,
        examples[place],
        tokenizer,
        num_heads=num_heads,
        max_length=max_length,
        boundary=boundary,
        truncation=truncation,
    )
    view, note = as_seen(), ""
    if not view.left_out:
        ref_ce, note = _reference_ce(document, recipe, examples[place], tokenizer, max_length)
        view = as_seen(ref_ce=ref_ce)
    statistics = example_statistics(examples, tokenizer, max_length, boundary)
    shown = Group(
        render_statistics(statistics, truncation),
        Text(f"\n── example {place} (from 0) ──", "bold cyan"),
        render_sample(view),
        Text(note),
    )
    (console or Console()).print(shown)
    if html is not None:
        page = Console(record=True, file=io.StringIO(), width=PAGE_WIDTH, force_terminal=True)
        page.print(shown)
        atomic_write_text(html, page.export_html())


def _recipe(choice: Choice) -> tuple[Document, Recipe] | tuple[None, None]:
    """Return the recipe; `settings` are its own unless they are those of a source."""
    if choice.recipe is None:
        return None, None
    document = load_document(choice.recipe, () if choice.source else choice.settings)
    return document, document.validate(Recipe)


def _tokenizer(choice: Choice, recipe: Recipe | None) -> PreTrainedTokenizerBase:
    if choice.as_bytes and choice.tokenizer is not None:
        raise ConfigError("give --tokenizer or --bytes, not both.")
    if choice.as_bytes:
        return train_tokenizer((), BYTE_VOCABULARY)
    given = choice.tokenizer
    if given is None and recipe is not None:
        given = recipe.tokenizer.pretrained or recipe.model.pretrained
    if given is None:
        why = "there is no tokenizer" if recipe is None else "the recipe trains its own on its data"
        raise ConfigError(
            f"{why}: give --tokenizer with a run folder, a tokenizer's folder or a hub id, or --bytes "
            "for one token per byte."
        )
    trained = RunFolder(Path(given)).tokenizer
    return load_tokenizer(trained if trained.is_dir() else given)


def _examples(
    choice: Choice, document: Document | None, recipe: Recipe | None
) -> Iterator[Example]:
    """Return the examples of the file or source, or those that the recipe trains on."""
    if document is None or recipe is None or choice.file or choice.source:
        settings = choice.settings if choice.source or recipe is None else ()
        return named_examples(choice.file, choice.source, settings, choice.split or ALL)
    source = make_source(recipe, resolve_options(recipe, document))
    return source_examples(source, choice.split or recipe.data.split)


def _place(choice: Choice, examples: list[Example]) -> int:
    if choice.index is not None and choice.task_id is not None:
        raise ConfigError("give --index or --task-id, not both.")
    if choice.task_id is not None:
        ids = [example.task_id for example in examples]
        if choice.task_id not in ids:
            raise DataError(
                f"no example of task {choice.task_id!r}.{near_match(choice.task_id, ids)}"
            )
        return ids.index(choice.task_id)
    place = choice.index or 0
    if place >= len(examples):
        raise DataError(f"there is no example {place}: there are {len(examples)}, from 0.")
    return place


def _reference_ce(
    document: Document | None,
    recipe: Recipe | None,
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> tuple[list[float] | None, str]:
    """Return the reference's loss of each token where the recipe's algorithm needs it, and a note."""
    if document is None or recipe is None:
        return None, ""
    options = resolve_options(recipe, document)
    reference = ALGORITHMS.get(recipe.algorithm.name)(options.algorithm, recipe.seed).reference
    if reference is None:
        return None, ""
    if not Path(reference).is_dir():
        return None, f"no ref_ce: the reference {reference} is not there yet"
    data = encode_examples(
        [example], tokenizer, max_length, example.task_id, boundary=recipe.data.boundary
    )
    with tempfile.TemporaryDirectory() as cache:
        data = with_reference_ce(data, model_folder(reference), tokenizer, Path(cache))
    signal = data.items[0].ref_ce
    assert signal is not None
    return signal.tolist(), ""
