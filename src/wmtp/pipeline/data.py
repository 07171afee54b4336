"""From a recipe's data settings to encoded examples, with the signals that its algorithm needs."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from wmtp.algorithms.base import Algorithm
from wmtp.config.options import Options
from wmtp.config.recipe import Recipe
from wmtp.data.encode import EncodedSet, encode_examples
from wmtp.data.example import Example
from wmtp.data.order import length_leak, training_order, unpaired
from wmtp.data.reference import with_reference_ce
from wmtp.data.sources.base import Source
from wmtp.data.sources.mixture import Mixture
from wmtp.data.tokenizer import load_tokenizer, train_tokenizer
from wmtp.display import Display
from wmtp.errors import ConfigError
from wmtp.registry import SOURCES
from wmtp.run_folder import RunFolder, model_folder

_MAX_LENGTH_RATIO = 1.1


@dataclass(frozen=True)
class Data:
    """What a run trains on and is measured on."""

    tokenizer: PreTrainedTokenizerBase
    train: EncodedSet
    validation: EncodedSet | None


def make_source(recipe: Recipe, options: Options) -> Source[Any]:
    """Return the recipe's data source, or its mixture of them."""
    if recipe.data.mixture is None:
        return SOURCES.get(str(recipe.data.source))(options.data[0])
    parts = zip(recipe.data.mixture, options.data, strict=True)
    return Mixture({p.label: (SOURCES.get(p.source)(config), p.weight) for p, config in parts})


def prepare_data(recipe: Recipe, source: Source[Any], run: RunFolder, display: Display) -> Data:
    """Read the source, get the tokenizer, encode."""
    settings = recipe.data
    with display.stage("data") as update:
        train_examples = list(islice(_usable(source, settings.split, recipe), settings.limit))
        update(1, 3, f"{len(train_examples)} training examples")
        tokenizer = _tokenizer(recipe, train_examples, run)
        encode = functools.partial(
            encode_examples, tokenizer=tokenizer, max_length=settings.max_length
        )
        train_set = encode(train_examples, where=f"{settings.label}, split {settings.split}")
        update(2, 3)
        validation = None
        if settings.validation_split is not None:
            held_out = islice(
                source.examples(settings.validation_split), recipe.evaluation.held_out_limit
            )
            validation = encode(
                held_out, where=f"{settings.label}, split {settings.validation_split}"
            )
        update(3, 3)
    if train_set.truncated or train_set.dropped:
        display.say(
            f"data: of {len(train_examples)} training examples, {train_set.truncated} were cut at "
            f"{settings.max_length} tokens and {train_set.dropped} had no target left"
        )
    return Data(tokenizer, train_set, validation)


def _usable(source: Source[Any], split: str, recipe: Recipe) -> Iterator[Example]:
    """Yield training examples; without the incorrect ones where the recipe wants none."""
    for example in source.examples(split):
        if recipe.data.incorrect_share != 0 or example.is_correct is not False:
            yield example


def _tokenizer(recipe: Recipe, examples: list[Example], run: RunFolder) -> PreTrainedTokenizerBase:
    given = recipe.tokenizer.pretrained
    if given is None and recipe.model.pretrained is not None:
        given = recipe.model.pretrained
        folder = Path(given)
        given = str(model_folder(folder)) if folder.is_dir() else given
    if given is not None:
        return load_tokenizer(given)
    if run.tokenizer.is_dir():
        return load_tokenizer(run.tokenizer)
    assert recipe.tokenizer.vocab_size is not None
    texts = (example.prompt + example.completion for example in examples)
    trained = train_tokenizer(texts, recipe.tokenizer.vocab_size)
    with tempfile.TemporaryDirectory() as temporary:  # as it will be read back from the run
        trained.save_pretrained(temporary)
        return load_tokenizer(temporary)


def sample_order(recipe: Recipe, data: Data, display: Display) -> np.ndarray:
    """Return the training sample of every place, and say what is worth knowing about the draw."""
    settings = recipe.data
    ratio = (settings.max_length_ratio or _MAX_LENGTH_RATIO) if settings.pairs else None
    weights = None
    if settings.mixture is not None:
        total = sum(part.weight for part in settings.mixture)
        weights = {part.label: part.weight / total for part in settings.mixture}
    order = training_order(
        data.train,
        recipe.optimization,
        settings.incorrect_share,
        recipe.seed,
        max_length_ratio=ratio,
        curriculum=settings.curriculum,
        weights=weights,
    )
    if ratio is not None:
        num, right, wrong = unpaired(data.train, ratio)
        display.say(
            f"data: {num} pairs; {right} correct and {wrong} incorrect completions are not used, without "
            f"a partner of the same problem at most {ratio:g} times as long"
        )
    overall, within = length_leak(data.train, order)
    if not math.isnan(overall):
        display.say(
            f"data: length alone tells incorrect completions with AUC {overall:.3f}"
            + ("" if math.isnan(within) else f", {within:.3f} within a problem")
        )
    return order


def require_signals(algorithm: Algorithm[Any], recipe: Recipe, data: Data) -> None:
    """Refuse data without what the algorithm needs."""
    if "reward" not in algorithm.needs:
        return
    rewards = [item.example.reward for item in data.train.items]
    if None in rewards or len(set(rewards)) < 2:
        raise ConfigError(
            f"algorithm {recipe.algorithm.name} learns values from correct and incorrect completions, "
            f"but data source {recipe.data.label} gives the rewards {sorted({str(r) for r in rewards})}. "
            "Choose data with both kinds, and data.incorrect_share above 0."
        )


def add_reference(data: Data, reference: Path, cache: Path, device: str, display: Display) -> Data:
    """Return `data` with the loss of every token under the model in the folder `reference`."""
    sets = {"training": data.train, "validation": data.validation}
    found: dict[str, EncodedSet | None] = {}
    for name, part in sets.items():
        if part is None:
            found[name] = None
            continue
        with display.stage(f"reference loss, {name} data") as update:
            found[name] = with_reference_ce(
                part,
                reference,
                data.tokenizer,
                cache,
                device=device,
                progress=update,
                say=display.say,
            )
    train_set = found["training"]
    assert train_set is not None
    return Data(data.tokenizer, train_set, found["validation"])
