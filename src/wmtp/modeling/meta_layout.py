"""Meta's layout on paper: settings, tensor names and shapes, and the order of rotary features.

It is that of Llama with `extra_heads` beside the layers, as in the models of Gloeckle et al. 2024
(arXiv:2404.19737): the layers are the trunk and head 0, extra head j is head j + 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

DEFAULT_ROPE_THETA = 10000.0  # Meta's, where params.json names none


class Params(BaseModel):
    """What `params.json` says, by Meta's names; keys that only concern Meta's own code are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    dim: int = Field(gt=0, description="Width D.")
    n_layers: int = Field(gt=0, description="Decoder layers; with or without the extra heads.")
    n_heads: int = Field(gt=0, description="Query heads.")
    n_kv_heads: int | None = Field(None, gt=0, description="Key/value heads; default: n_heads.")
    vocab_size: int = Field(-1, description="V; -1 leaves it to the tensors.")
    multiple_of: int | None = Field(None, gt=0, description="Rounds the feed-forward width up.")
    ffn_dim_multiplier: float | None = Field(None, gt=0, description="Scales that width.")
    norm_eps: float = Field(gt=0, description="Epsilon of the RMS norms.")
    rope_theta: float = Field(DEFAULT_ROPE_THETA, gt=0, description="Base of the rotary angles.")
    n_future_tokens: int | None = Field(None, gt=0, description="Heads H, head 0 included.")
    use_scaled_rope: bool = Field(False, description="Llama 3.1's stretched rotary angles.")


@dataclass(frozen=True)
class Sizes:
    """The sizes that fix every shape: `layers` counts the trunk and head 0."""

    width: int
    layers: int
    extra_heads: int
    attention_heads: int
    key_value_heads: int
    feed_forward: int
    vocabulary: int


@dataclass(frozen=True)
class Slot:
    """One tensor: its name there and in `MTPModel`, and its whole shape.

    split: the dimension that model-parallel shards divide; None for a norm, which each of them holds,
    and for the embedding, where releases differ. rotary_heads: how many attention heads its rows
    belong to whose order differs; 0 for none.
    """

    name: str
    ours: str
    shape: tuple[int, ...]
    split: int | None = None
    rotary_heads: int = 0


def slots(sizes: Sizes) -> Iterator[Slot]:
    """Yield every tensor of a model of these sizes."""
    width, vocabulary = sizes.width, sizes.vocabulary
    yield Slot("tok_embeddings.weight", "backbone.model.embed_tokens.weight", (vocabulary, width))
    for i in range(sizes.layers):
        yield from _layer(f"layers.{i}.", f"backbone.model.layers.{i}.", sizes)
    for j in range(sizes.extra_heads):
        yield from _layer(f"extra_heads.{j}.", f"heads.{j}.", sizes)
    yield Slot("norm.weight", "backbone.model.norm.weight", (width,))
    yield Slot("output.weight", "backbone.lm_head.weight", (vocabulary, width), split=0)


def _layer(theirs: str, ours: str, sizes: Sizes) -> Iterator[Slot]:
    width, inner = sizes.width, sizes.feed_forward
    queries, keys = sizes.attention_heads, sizes.key_value_heads
    key_width = width // queries * keys
    key_rows, across = (key_width, width), (width, width)
    parts: list[tuple[str, str, tuple[int, ...], int | None, int]] = [
        ("attention.wq", "self_attn.q_proj", across, 0, queries),
        ("attention.wk", "self_attn.k_proj", key_rows, 0, keys),
        ("attention.wv", "self_attn.v_proj", key_rows, 0, 0),
        ("attention.wo", "self_attn.o_proj", across, 1, 0),
        ("feed_forward.w1", "mlp.gate_proj", (inner, width), 0, 0),
        ("feed_forward.w2", "mlp.down_proj", (width, inner), 1, 0),
        ("feed_forward.w3", "mlp.up_proj", (inner, width), 0, 0),
        ("attention_norm", "input_layernorm", (width,), None, 0),
        ("ffn_norm", "post_attention_layernorm", (width,), None, 0),
    ]
    for part, name, shape, split, heads in parts:
        yield Slot(f"{theirs}{part}.weight", f"{ours}{name}.weight", shape, split, heads)


def feed_forward_width(width: int, multiple_of: int, multiplier: float | None = None) -> int:
    """Return Meta's rule: two thirds of four widths, scaled, then rounded up to a multiple."""
    inner = 8 * width // 3
    if multiplier is not None:
        inner = int(multiplier * inner)
    return -(-inner // multiple_of) * multiple_of


def half_split(weight: Tensor, heads: int) -> Tensor:
    """Return rows `[heads * d, D]` as transformers rotates them: feature i is paired with i + d/2.

    Meta pairs 2i with 2i + 1: the complex numbers of Su et al. 2021, arXiv:2104.09864.
    """
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Return rows `[heads * d, D]` as Meta rotates them; undoes `half_split`."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
