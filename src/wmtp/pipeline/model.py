"""From a recipe's model settings to the model to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase, set_seed

from wmtp.algorithms.base import Algorithm
from wmtp.config.recipe import ArchitectureSection, Recipe
from wmtp.errors import ConfigError
from wmtp.modeling.checkpoint import has_heads
from wmtp.modeling.mtp import MTPModel
from wmtp.run_folder import model_folder


def build_model(
    recipe: Recipe, algorithm: Algorithm[Any], tokenizer: PreTrainedTokenizerBase
) -> MTPModel:
    """Return the model of the recipe, with a value head where the algorithm wants one."""
    set_seed(recipe.seed)
    if recipe.model.architecture is not None:
        config = _llama_like(recipe.model.architecture, tokenizer)
        model = MTPModel.from_config(config, recipe.model.num_heads)
    else:
        model = _pretrained(str(recipe.model.pretrained), recipe.model.num_heads)
    if algorithm.value_head is not None and model.value_head is None:
        kind, train_trunk = algorithm.value_head
        model.add_value_head(kind, train_trunk)  # type: ignore[arg-type]
    if algorithm.value_head is None:
        model.value_head = None
    return model


def _pretrained(origin: str, num_heads: int) -> MTPModel:
    path = model_folder(origin) if Path(origin).is_dir() else Path(origin)
    if not has_heads(path):
        return MTPModel.from_backbone(str(path), num_heads)
    model = MTPModel.from_pretrained(path)
    if model.num_heads != num_heads:
        raise ConfigError(
            f"model.num_heads is {num_heads}, but the checkpoint {path} has {model.num_heads} heads. "
            f"Set model.num_heads to {model.num_heads}."
        )
    return model


def _llama_like(section: ArchitectureSection, tokenizer: PreTrainedTokenizerBase) -> Any:
    return AutoConfig.for_model(
        section.family,
        vocab_size=len(tokenizer),
        hidden_size=section.hidden_size,
        intermediate_size=section.intermediate_size,
        num_hidden_layers=section.num_layers,
        num_attention_heads=section.num_attention_heads,
        num_key_value_heads=section.num_key_value_heads or section.num_attention_heads,
        max_position_embeddings=section.max_positions,
        tie_word_embeddings=section.tie_embeddings,
        initializer_range=section.initializer_range,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
