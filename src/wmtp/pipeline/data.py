"""From a recipe's data settings to encoded examples, with the signals that its algorithm needs."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from wmtp.algorithms.base import Algorithm
from wmtp.config.data_sections import DataSection, DecontaminationSection
from wmtp.config.options import Options
from wmtp.config.recipe import Recipe
from wmtp.data.decontaminate import EvaluationTexts, decontaminated
from wmtp.data.encode import EncodedSet, encode_examples
from wmtp.data.example import Example
from wmtp.data.order import length_leak, training_order, unpaired
from wmtp.data.reference import with_reference_ce
from wmtp.data.sources.base import Source
from wmtp.data.sources.mixture import Mixture
from wmtp.data.templates import use_template
from wmtp.data.tokenizer import load_tokenizer, train_tokenizer
from wmtp.display import Display
from wmtp.errors import ConfigError, DataError
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


def evaluation_sources(recipe: Recipe, options: Options) -> list[Source[Any]]:
    """Return the sources that data.decontaminate names, in its order."""
    cleaning = recipe.data.decontaminate
    named = zip(cleaning.against if cleaning else (), options.decontaminate, strict=True)
    return [SOURCES.get(section.source)(config) for section, config in named]


def prepare_data(
    recipe: Recipe,
    source: Source[Any],
    run: RunFolder,
    display: Display,
    against: Sequence[Source[Any]] = (),
) -> Data:
    """Read the source, get the tokenizer, encode.

    against: the sources that data.decontaminate names, in its order.
    """
    settings = recipe.data
    notices: list[str] = []
    with display.stage("data") as update:
        usable = _without_leaks(
            _usable(source, settings.split, recipe), settings.decontaminate, against, notices
        )
        train_examples = list(islice(usable, settings.limit))
        if not train_examples and notices:
            raise DataError(f"no training examples are left. {'. '.join(notices)}.")
        update(1, 3, f"{len(train_examples)} training examples")
        tokenizer = _tokenizer(recipe, train_examples, run)
        use_template(tokenizer, settings.template)
        encode = functools.partial(
            encode_examples,
            tokenizer=tokenizer,
            max_length=settings.max_length,
            boundary=settings.boundary,
            truncation=settings.truncation,
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
    read = [notice for one in (source, *against) for notice in one.notices]
    for notice in dict.fromkeys([*read, *notices]):
        display.say(f"data: {notice}")
    for kind, part in (("training", train_set), ("validation", validation)):
        for notice in encoding_notices(part, kind, settings) if part is not None else ():
            display.say(f"data: {notice}")
    return Data(tokenizer, train_set, validation)


def encoding_notices(part: EncodedSet, kind: str, settings: DataSection) -> Iterator[str]:
    """Yield what is worth knowing about how a set became tokens."""
    if part.truncated or part.dropped:
        too_long = "they are longer" if settings.truncation == "drop" else "their prompt fills them"
        yield (
            f"of {len(part) + part.dropped} {kind} examples, {part.truncated} were cut at "
            f"{settings.max_length} tokens, {part.dropped - part.empty} left out because {too_long}, "
            f"{part.empty} because they have no completion"
        )
    if part.special:
        yield (
            f"{part.special} {kind} completions hold text that the tokenizer takes for a special token, "
            "such as its end of sequence"
        )


def _usable(source: Source[Any], split: str, recipe: Recipe) -> Iterator[Example]:
    """Yield training examples; without the incorrect ones where the recipe wants none."""
    for example in source.examples(split):
        if recipe.data.incorrect_share != 0 or example.is_correct is not False:
            yield example


def _without_leaks(
    examples: Iterator[Example],
    cleaning: DecontaminationSection | None,
    against: Sequence[Source[Any]],
    notices: list[str],
) -> Iterator[Example]:
    """Return the examples as data.decontaminate wants them; what was found goes to `notices`."""
    if cleaning is None:
        return examples
    evaluation = {
        f"{section.source}, split {section.split} (data.decontaminate.against.{number})": EvaluationTexts(
            source.examples(section.split), cleaning.ngram
        )
        for number, (section, source) in enumerate(zip(cleaning.against, against, strict=True))
    }
    return decontaminated(examples, evaluation, drop=cleaning.action == "drop", notices=notices)


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
    batch = recipe.optimization.global_batch
    if batch > len(data.train):
        display.say(
            f"data: a step of {batch} samples (optimization.global_batch) holds some of the "
            f"{len(data.train)} examples more than once, and is more than an epoch"
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
    if "pairs" in algorithm.needs and (not recipe.data.pairs or recipe.data.packing != "none"):
        raise ConfigError(
            f"algorithm {recipe.algorithm.name} with value_loss pairwise compares the samples of a pair. "
            "Set data.pairs to true and data.packing to none."
        )
    if "fault" in algorithm.needs and not any(item.fault.any() for item in data.train.items):
        raise ConfigError(
            f"algorithm {recipe.algorithm.name} needs known faults, and data source {recipe.data.label} "
            "has none. Choose data with fault_spans, such as minicode with data.incorrect_share above 0 "
            "or the output of `wmtp data mutate`."
        )
    if "reward" not in algorithm.needs:
        return
    rewards = [item.example.reward for item in data.train.items]
    if None in rewards or len(set(rewards)) < 2:
        raise ConfigError(
            f"algorithm {recipe.algorithm.name} learns values from correct and incorrect completions, "
            f"but data source {recipe.data.label} gives the rewards {sorted({str(r) for r in rewards})}. "
            "Choose data with both kinds, and data.incorrect_share above 0."
        )
    head = algorithm.value_head
    if head is not None and head.num_folds > 1:
        problems = {item.example.problem for item in data.train.items}
        if len({problem % head.num_folds for problem in problems}) == 1:
            raise ConfigError(
                f"algorithm.cross_fit fits each head on the problems of the other folds, but the "
                f"{len(problems)} problems of data source {recipe.data.label} all fall into one of the "
                f"{head.num_folds} folds. Give more problems, or set algorithm.cross_fit to 1."
            )
    highest = max(reward for reward in rewards if reward is not None)
    if "correct" in algorithm.needs and highest < 1:
        raise ConfigError(
            f"algorithm {recipe.algorithm.name} with incorrect_samples drop learns from reward 1 alone; "
            f"no sample of data source {recipe.data.label} has more than {highest:g}. Set "
            "algorithm.incorrect_samples to weight."
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
