"""From a recipe's model settings to the model to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedTokenizerBase, set_seed

from wmtp.algorithms.base import Algorithm, ValueHeadSettings
from wmtp.config.model_sections import ArchitectureSection, ModelSection
from wmtp.config.recipe import Recipe
from wmtp.errors import CheckpointError, ConfigError, near_match
from wmtp.modeling.checkpoint import has_heads
from wmtp.modeling.lora import add_lora
from wmtp.modeling.mtp import MTPModel
from wmtp.run_folder import model_folder


def build_model(
    recipe: Recipe, algorithm: Algorithm[Any], tokenizer: PreTrainedTokenizerBase
) -> MTPModel:
    """Return the model of the recipe, with a value head where the algorithm wants one."""
    set_seed(recipe.seed)
    section = recipe.model
    if section.architecture is not None:
        config = _from_scratch(section.architecture, tokenizer)
        model = MTPModel.from_config(
            config,
            section.num_heads,
            section.head_init or "random",
            section.num_head_layers,
            section.head_type,
        )
    else:
        model = _pretrained(section, str(section.pretrained))
        # Small steps are lost in half-precision weights; autocast makes the products of that precision.
        model.float()
    _set_value_head(model, algorithm.value_head, section)
    if section.lora is not None:
        lora = section.lora
        add_lora(model, lora.rank, lora.alpha, lora.dropout, lora.target_modules)
    return model


def _set_value_head(
    model: MTPModel, wanted: ValueHeadSettings | None, section: ModelSection
) -> None:
    """Give the model the value head that is wanted, or leave it the one it has when that is the same."""
    model.value_anchor = None
    if wanted is None:
        model.value_head = None
        return
    head = model.value_head
    if head is None:
        if wanted.trained_before:
            raise CheckpointError(
                "algorithm.value_phase.share is 0, so that the run has no phase value, but "
                f"{section.pretrained or 'a model from scratch'} has no value head that was trained. "
                "Give as model.pretrained a run of critic-wmtp, or raise the share."
            )
        model.add_value_head(wanted.kind, wanted.train_trunk, wanted.num_folds)
    else:
        pairs = {
            "value_head": (wanted.kind, head.kind),
            "cross_fit": (wanted.num_folds, head.num_folds),
        }
        for name, (asked, found) in pairs.items():
            if asked != found:
                raise ConfigError(
                    f"algorithm.{name} is {asked}, but the checkpoint {section.pretrained} has a value "
                    f"head of {found}. Set algorithm.{name} to {found}."
                )
        head.train_trunk = wanted.train_trunk
    if wanted.anchored:
        model.anchor_value()


def model_to_measure(folder: Path, device: str) -> MTPModel:
    """Return the model in `folder` on `device`; a plain one of transformers has head 0 alone."""
    model = MTPModel.from_pretrained(folder) if has_heads(folder) else None
    model = model or MTPModel.from_backbone(folder, num_heads=1)
    model.to(device)
    return model


def _pretrained(section: ModelSection, origin: str) -> MTPModel:
    path = model_folder(origin) if Path(origin).is_dir() else Path(origin)
    if not has_heads(path):
        return MTPModel.from_backbone(
            str(path),
            section.num_heads,
            section.head_type,
            section.head_init or "copy",
            section.num_head_layers,
        )
    if section.head_init is not None:
        raise ConfigError(
            f"model.head_init is {section.head_init}, but the checkpoint {path} brings its heads. "
            "Leave model.head_init out."
        )
    model = MTPModel.from_pretrained(path)
    for name in ("num_heads", "head_type", "num_head_layers"):
        asked, found = getattr(section, name), getattr(model, name)
        if asked != found:
            raise ConfigError(
                f"model.{name} is {asked}, but the checkpoint {path} has {found} "
                f"{name.removeprefix('num_').replace('_', ' ')}. Set model.{name} to {found}."
            )
    return model


def _from_scratch(section: ArchitectureSection, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the configuration of a new model; a family that lacks one of the sizes is refused."""
    family = section.family
    if family not in CONFIG_MAPPING:
        raise ConfigError(
            f"model.architecture.family: transformers has no model type {family!r}."
            + near_match(family, CONFIG_MAPPING)
        )
    sizes = {
        "hidden_size": section.hidden_size,
        "intermediate_size": section.intermediate_size,
        "num_hidden_layers": section.num_layers,
        "num_attention_heads": section.num_attention_heads,
        "num_key_value_heads": section.num_key_value_heads,
        "max_position_embeddings": section.max_positions,
    }
    usual = AutoConfig.for_model(family)
    unknown = [name for name, size in sizes.items() if size and not hasattr(usual, name)]
    if unknown:
        raise ConfigError(
            f"model.architecture.family: {family} has no {' or '.join(unknown)}, so these sizes do not "
            "describe it. Choose a family that is built like llama, or give model.pretrained."
        )
    sizes["num_key_value_heads"] = section.num_key_value_heads or section.num_attention_heads
    return AutoConfig.for_model(
        family,
        **sizes,
        vocab_size=len(tokenizer),
        tie_word_embeddings=section.tie_embeddings,
        initializer_range=section.initializer_range,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
