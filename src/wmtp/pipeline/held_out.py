"""The held-out loss of a finished run, again or on other data: `wmtp eval RUN --benchmark loss`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field

from wmtp.config.environment import Environment
from wmtp.config.load import Document, load_document
from wmtp.config.options import resolve_options
from wmtp.config.recipe import EvaluationSection, Recipe
from wmtp.config.section import Section
from wmtp.data.collate import Collate
from wmtp.data.encode import encode_examples
from wmtp.data.tokenizer import load_tokenizer
from wmtp.display import Display
from wmtp.errors import ConfigError
from wmtp.evaluation.held_out import HeldOut
from wmtp.evaluation.per_head import head_analysis
from wmtp.evaluation.run import write_held_out_report
from wmtp.outputs import claim, locked
from wmtp.pipeline.benchmark import LOSS
from wmtp.pipeline.data import make_source
from wmtp.pipeline.model import model_to_measure
from wmtp.run_folder import RunFolder, model_folder
from wmtp.training.arguments import resolve_device


class LossSection(Section):
    """Settings of `loss`, beside `limit`."""

    path: str | None = Field(None, description="Data instead of the recipe's, for its source.")
    split: str | None = Field(None, description="Default: data.validation_split of the recipe.")


def evaluate_loss(
    checkpoint: Path,
    document: Document,
    environment: Environment,
    *,
    output: Path | None = None,
    display: Display | None = None,
) -> Path:
    """Write the held-out loss of a run, with the analysis of each head, and return the report's folder.

    `checkpoint` is a run folder; its recipe says what the data are and how they become tokens. limit:
    number of examples, default `evaluation.held_out_limit` of the recipe.
    """
    display = display or Display()
    section = document.validate(EvaluationSection)
    wanted = document.validate_options(section, LossSection, ())
    for name in ("protocol", "max_new_tokens", "extraction"):
        if name in section.model_fields_set:
            raise ConfigError(
                f"{document.where((name,))}: the held-out loss draws nothing, so {name} has no meaning. "
                "Leave it out."
            )
    run = RunFolder(checkpoint)
    recipe_document = _recipe_of(run, wanted.path)
    recipe = recipe_document.validate(Recipe)
    split = wanted.split or recipe.data.validation_split
    if split is None:
        raise ConfigError(
            f"{run.recipe}: data.validation_split is null. Name the split with --set split=NAME."
        )
    settings: dict[str, Any] = {
        "source": recipe.data.label,
        "path": wanted.path,
        "split": split,
        "limit": section.limit or recipe.evaluation.held_out_limit,
    }
    output = output or run.evaluation(LOSS)
    with locked(output):
        folder = model_folder(checkpoint)
        model = model_to_measure(folder, resolve_device(environment.device))
        tokenizer = load_tokenizer(folder)
        with display.stage("data"):
            examples = make_source(recipe, resolve_options(recipe, recipe_document)).examples(split)
            data = encode_examples(
                islice(examples, settings["limit"]),
                tokenizer,
                recipe.data.max_length,
                f"{recipe.data.label}, split {split}",
                boundary=recipe.data.boundary,
                truncation=recipe.data.truncation,
            )
        claim(output, {**settings, "tokens": data.digest()}, "an evaluation")
        collate = Collate(model.num_heads, int(tokenizer.pad_token_id))
        with display.stage("loss"):
            sums = HeldOut(data, collate).measure(model)
            heads = head_analysis(model, data, collate, tokenizer, recipe.data.boundary)
        write_held_out_report(sums, output, {"checkpoint": str(checkpoint), **settings}, heads)
    return output


def _recipe_of(run: RunFolder, path: str | None) -> Document:
    """Return the recipe of a run, with `path` as that of its data where it is given."""
    if not run.recipe.is_file():
        raise ConfigError(
            f"{run.path}: there is no {run.recipe.name}, which says what the held-out data are. Give "
            "the folder of a run, or choose another --benchmark."
        )
    document = load_document(run.recipe)
    if path is not None:
        document.override([f"data.path={path}"], "--data")
    return document
