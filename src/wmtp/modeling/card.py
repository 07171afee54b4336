"""The model card: what a model folder holds, how to load it, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from wmtp.modeling.mtp import MTPModel
from wmtp.modeling.sequential_layout import hint_for_transformers, why_left_out
from wmtp.outputs import atomic_write_text

Layout = Literal["meta", "hf", "native"]
CARD_FILE = "README.md"
_KEPT = ("license", "license_name", "license_link", "base_model")
_KINDS = {
    "parallel": "[Gloeckle et al. 2024](https://arxiv.org/abs/2404.19737)",
    "sequential": "[DeepSeek-V3](https://arxiv.org/abs/2412.19437)",
}
_LAYOUTS = {"meta": "Meta's", "hf": "the plain transformers", "native": "wmtp's own"}
_LOAD_HEAD_0 = """Head 0, the next-token model, with transformers:

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
```
"""
_LOAD_ALL = """All heads, with wmtp:

```python
import wmtp

model = wmtp.MTPModel.from_pretrained("path/to/this/folder")
```
"""
_LOAD_META = """The layout is that of facebook/multi-token-prediction. For transformers, or for wmtp:

```
wmtp convert hf path/to/this/folder path/to/new/folder
wmtp convert native path/to/this/folder path/to/new/folder
```
"""
_LOAD = {"meta": _LOAD_META, "hf": _LOAD_HEAD_0, "native": f"{_LOAD_HEAD_0}\n{_LOAD_ALL}"}


class Training(BaseModel):
    """How wmtp trained a model. start: what it started from, None for random weights."""

    model_config = ConfigDict(frozen=True, strict=True)

    algorithm: str
    data_source: str
    tokens: int
    seed: int
    start: str | None = None


def write_model_card(
    model: MTPModel,
    folder: Path,
    layout: Layout,
    *,
    converted_from: Layout | None = None,
    training: Training | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write `README.md` into the folder that `model` was written to in `layout`.

    `metadata` (license, base model) goes into the front matter and, like `training`, is left out where
    it is not known. `read_card` gives both back.
    """
    with_heads = layout != "hf" or why_left_out(model) is None
    left_out = () if layout == "native" else ("value_", *(() if with_heads else ("heads.",)))
    heads = _heads(model, layout) if with_heads else "It predicts the next token."
    load = _LOAD[layout]
    if layout == "hf" and with_heads:
        hint = hint_for_transformers(model)
        end = f"; {hint}" if hint else "."
        load += f"\n`generate(use_mtp=True)` drafts with the other heads{end}\n"
    parameters = sum(p.numel() for k, p in model.named_parameters() if not k.startswith(left_out))
    front: dict[str, Any] = {
        "library_name": "wmtp" if layout == "meta" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": [model.config.model_type, *(["multi-token-prediction"] if with_heads else [])],
        **(metadata or {}),
    }
    if training is not None:
        front["wmtp"] = training.model_dump()
    text = f"""---
{yaml.safe_dump(front, sort_keys=False)}---

# Language model of the family {model.config.model_type}

{parameters:,} parameters ({str(model.backbone.dtype).removeprefix("torch.")}). {heads}

## Load

{load}
## Origin

{_origin(training, converted_from)}

## Use and limits

For research; nothing else was evaluated. Check what the model writes, and run code that it writes only in
isolation.
"""
    atomic_write_text(folder / CARD_FILE, text)


def read_card(folder: Path) -> tuple[Training | None, dict[str, Any]]:
    """Return what the front matter of a card says of training and metadata, as far as it says."""
    file = folder / CARD_FILE
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    try:
        front = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else {}
        front = front if isinstance(front, dict) else {}
        training = Training.model_validate(front["wmtp"]) if "wmtp" in front else None
    except (yaml.YAMLError, IndexError, ValueError):
        return None, {}  # someone else's card, which may hold anything
    return training, {key: front[key] for key in _KEPT if key in front}


def _heads(model: MTPModel, layout: Layout) -> str:
    if model.num_heads == 1:
        text = "One head, which predicts the next token."
    else:
        text = (
            f"{model.num_heads} {model.head_type} heads ({_KINDS[model.head_type]}):"
            f"\nhead 0 predicts the next token, head {model.num_heads - 1} the one {model.num_heads} ahead."
        )
    if layout == "native" and model.value_head is not None:
        text += f" A value head ({model.value_head.kind}) estimates the probability of success."
    return text


def _origin(training: Training | None, converted_from: Layout | None) -> str:
    lines = []
    if training is not None:
        start = "random weights" if training.start is None else f"`{training.start}`"
        lines.append(
            f"Trained by wmtp from {start}: algorithm `{training.algorithm}`, data source "
            f"`{training.data_source}`, {training.tokens:,} tokens, seed {training.seed}."
        )
    if converted_from is not None:
        lines.append(f"Converted by wmtp from {_LAYOUTS[converted_from]} layout.")
    return "\n".join(lines) or "Not recorded."
