"""Prompt templates: the text around a prompt and its completion, in training and in generation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

import jinja2
from transformers import PreTrainedTokenizerBase

from wmtp.errors import ConfigError, DataError

TemplateName = Literal["plain", "chat", "alpaca"]

# The prompt of instructions without input of Stanford Alpaca (Taori et al. 2023).
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{prompt}\n\n### Response:"
)
# What stands for the completion while a chat template is rendered, to see what comes around it.
_PLACE = "COMPLETION"
# The key under which tokenizer_config.json says with which template a model was trained.
_KEY = "prompt_template"
# Templates that tell today's date tell this one instead: a run that goes on tomorrow, and a cache of its
# data, would otherwise have other tokens.
_DATE = datetime(2024, 1, 1)
_TODAY = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


@dataclass(frozen=True, slots=True)
class Frame:
    """The text before a completion and after it.

    starts: whether the start token comes before all of it; a chat template brings its own.
    """

    before: str
    after: str = ""
    starts: bool = True


def use_template(tokenizer: PreTrainedTokenizerBase, name: TemplateName) -> None:
    """Make `name` the template of `tokenizer`; `save_pretrained` records it, unless it is plain.

    `chat` for a tokenizer without a chat template is a `ConfigError`.
    """
    if name == "chat" and not tokenizer.chat_template:
        raise ConfigError(
            f"data.template is chat, but the tokenizer {tokenizer.name_or_path or 'of this run'} has no "
            "chat template. Set data.template to plain or alpaca, or tokenizer.pretrained to a tokenizer "
            "that has one."
        )
    tokenizer.init_kwargs.pop(_KEY, None)
    if name != "plain":
        tokenizer.init_kwargs[_KEY] = name


def template_of(tokenizer: PreTrainedTokenizerBase) -> TemplateName:
    """Return the template that `tokenizer` was trained with; plain where none is recorded."""
    name: TemplateName = tokenizer.init_kwargs.get(_KEY, "plain")
    if name not in get_args(TemplateName):
        raise DataError(
            f"{tokenizer.name_or_path}: tokenizer_config.json has the {_KEY} {name!r}. Known: "
            f"{', '.join(get_args(TemplateName))}."
        )
    return name


def frame(prompt: str, tokenizer: PreTrainedTokenizerBase) -> Frame:
    """Return what stands around a completion of `prompt` under the tokenizer's template."""
    name = template_of(tokenizer)
    if name == "plain":
        return Frame(prompt)
    if name == "alpaca":
        return Frame(_ALPACA.format(prompt=prompt))
    messages = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": _PLACE},
    ]
    try:
        template = _TODAY.sub(
            lambda found: repr(_DATE.strftime(found[2])), tokenizer.get_chat_template()
        )
        text = str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False))
    except jinja2.TemplateError as error:
        raise DataError(
            f"{tokenizer.name_or_path}: its chat template refuses a question with its answer: {error}. "
            "Set data.template to plain or alpaca."
        ) from error
    before, found, after = text.rpartition(_PLACE)
    if not found:
        raise DataError(
            f"{tokenizer.name_or_path}: its chat template does not show what the assistant says, so "
            "there is nothing to learn. Set data.template to plain or alpaca."
        )
    return Frame(before, after, starts=False)
