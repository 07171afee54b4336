"""A model from one checkpoint layout to another, with its tokenizer and a model card."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from wmtp.config.load import load_document
from wmtp.config.recipe import Recipe
from wmtp.data.tokenizer import load_sentencepiece, load_tokenizer
from wmtp.errors import CheckpointError, ConfigError, OutputError, WmtpError, near_match
from wmtp.modeling.card import Layout, Training, read_card, write_model_card
from wmtp.modeling.checkpoint import has_heads
from wmtp.modeling.meta import is_meta_folder, read_meta
from wmtp.modeling.meta_export import write_meta
from wmtp.modeling.mtp import MTPModel
from wmtp.modeling.sequential_layout import (
    hint_for_transformers,
    read_with_heads,
    why_left_out,
    write_with_heads,
)
from wmtp.outputs import atomic_directory
from wmtp.pipeline.results import training_facts
from wmtp.run_folder import RunFolder, model_folder

_SENTENCEPIECE = "tokenizer.model"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    _SENTENCEPIECE,
)


@dataclass(frozen=True)
class Conversion:
    """What a conversion made. notices: what a reader should know, such as what was left out."""

    output: str
    layout: Layout
    source_layout: Layout
    num_heads: int
    notices: list[str]


def convert(layout: str, source: Path, output: Path, *, num_heads: int | None = None) -> Conversion:
    """Write the model in `source` to the new folder `output`, which appears whole or not at all.

    layout: `meta`, `hf` (plain transformers: head 0, with sequential heads where the family has a place
    for them) or `native` (all heads). source: a run folder, or a model folder in any of the three.
    num_heads: H for a plain transformers model with head 0 alone, whose new heads are copies of it; by
    default a model keeps those it has.
    """
    target = _layout_named(layout)
    if num_heads is not None and (num_heads < 1 or target == "hf"):
        reason = "hf has head 0 alone" if target == "hf" else f"{num_heads} heads cannot be"
        raise ConfigError(
            f"--num-heads: {reason}. Leave it out, or choose another number or layout."
        )
    if os.path.lexists(output):
        raise OutputError(
            f"{output}: something is there already. Remove it or choose another output folder."
        )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    origin, folder = _source_layout(source)
    model = _read(origin, folder, num_heads)
    notices = _left_out(model, target)
    training, metadata = read_card(folder)
    training = training or _training_of(folder)
    with atomic_directory(output) as partial:
        tokenizer = _bring_tokenizer(origin, folder, partial, notices)
        if origin == "meta" and tokenizer is not None:
            _set_special_tokens(model, tokenizer, folder)
        if target == "meta":
            write_meta(model, partial)
        elif target == "hf" and why_left_out(model) is None:
            write_with_heads(model, partial)
        elif target == "hf":
            model.backbone.save_pretrained(partial)
        else:
            model.save_pretrained(partial)
        write_model_card(
            model, partial, target, converted_from=origin, training=training, metadata=metadata
        )
    heads = 1 if target == "hf" and why_left_out(model) else model.num_heads
    return Conversion(str(output), target, origin, heads, notices)


def _layout_named(name: str) -> Layout:
    known: tuple[Layout, ...] = get_args(Layout)
    for layout in known:
        if layout == name:
            return layout
    raise ConfigError(
        f"convert: unknown layout {name!r}.{near_match(name, known)} Known: {', '.join(known)}."
    )


def _source_layout(source: Path) -> tuple[Layout, Path]:
    """Return the layout of a source and the folder with the model in it."""
    if source.is_dir() and is_meta_folder(source):
        if (source / "config.json").is_file():
            raise CheckpointError(
                f"{source}: holds both Meta's files and a config.json. Keep the files of one layout."
            )
        return "meta", source
    folder = model_folder(source)
    return ("native" if has_heads(folder) else "hf"), folder


def _read(layout: Layout, folder: Path, num_heads: int | None) -> MTPModel:
    if layout == "hf":
        model = read_with_heads(folder) or MTPModel.from_backbone(folder, num_heads or 1)
    else:
        model = read_meta(folder) if layout == "meta" else MTPModel.from_pretrained(folder)
    if num_heads not in (None, model.num_heads):
        raise ConfigError(
            f"--num-heads {num_heads}: {folder} has {model.num_heads} heads, and only a plain "
            "transformers model gets new ones. Leave --num-heads out."
        )
    return model


def _left_out(model: MTPModel, target: Layout) -> list[str]:
    """Return notices about what the target layout has no place for, or not the usual one."""
    notices = []
    if target == "hf" and model.num_heads > 1:
        reason, hint = why_left_out(model), hint_for_transformers(model)
        if reason is not None:
            notices.append(f"heads 1 to {model.num_heads - 1} were left out: {reason}")
        elif hint is not None:
            notices.append(hint)
    if target != "native" and model.value_head is not None:
        notices.append(f"the value head was left out: {target} has no place for it")
    return notices


def _training_of(folder: Path) -> Training | None:
    """Return how the model was trained, when its folder is inside that of a complete run."""
    run = RunFolder(folder.parent)
    totals = run.totals() if folder == run.model else None
    if totals is None:
        return None
    return training_facts(load_document(run.recipe).validate(Recipe), totals["tokens"])


def _bring_tokenizer(
    origin: Layout, folder: Path, output: Path, notices: list[str]
) -> PreTrainedTokenizerBase | None:
    """Copy the tokenizer's files, and return the tokenizer where a Meta source has a usable one.

    Meta's releases keep one `tokenizer.model` above the folders of their models; it becomes a
    tokenizer that transformers loads, where the packages for that are installed.
    """
    files = {name: folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()}
    above = folder.absolute().parent / _SENTENCEPIECE
    if not files and origin == "meta" and above.is_file():
        files = {_SENTENCEPIECE: above}
        notices.append(f"the tokenizer is {above}")
    for name, file in files.items():
        shutil.copyfile(file, output / name)
    if not files:
        notices.append(f"{folder}: there is no tokenizer; the model was converted without")
    if not files or origin != "meta":
        return None
    try:
        if "tokenizer.json" in files or _SENTENCEPIECE not in files:
            return load_tokenizer(folder)
        tokenizer = load_sentencepiece(files[_SENTENCEPIECE])
    except WmtpError as error:
        notices.append(str(error))
        return None
    tokenizer.save_pretrained(output)
    return tokenizer


def _set_special_tokens(model: MTPModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Give the model the special tokens of its tokenizer, which Meta's layout does not hold."""
    if len(tokenizer) > model.config.vocab_size:
        raise CheckpointError(
            f"{folder}: its tokenizer has {len(tokenizer)} tokens, the model only "
            f"{model.config.vocab_size}. Put the model's own {_SENTENCEPIECE} there."
        )
    settings: list[Any] = [model.config, model.backbone.generation_config]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for setting in settings:
            setattr(setting, name, getattr(tokenizer, name))
