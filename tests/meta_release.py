"""A tiny checkpoint of Meta's released layout, and a forward of it in plain torch.

Written from the papers, without wmtp and transformers: Touvron et al. 2023, arXiv:2302.13971 (layers),
Su et al. 2021, arXiv:2104.09864 (rotary angles), Gloeckle et al. 2024, arXiv:2404.19737 (heads).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VOCAB = 40
_BY_ROWS = ("wq", "wk", "wv", "w1", "w3", "output")
_BY_COLUMNS = ("wo", "w2")


def settings(heads: int = 4, kv_heads: int | None = 2, **changes: Any) -> dict[str, Any]:
    """Return `params.json`: 3 trunk layers, head 0, and `heads - 1` extra heads."""
    found: dict[str, Any] = {
        "dim": 32,
        "n_layers": 3 + heads,
        "n_heads": 4,
        "vocab_size": VOCAB,
        "multiple_of": 24,
        "norm_eps": 1e-5,
    }
    found |= {"n_kv_heads": kv_heads} if kv_heads else {}
    found |= {"n_future_tokens": heads} if heads > 1 else {}
    return found | changes


def feed_forward_size(params: dict[str, Any]) -> int:
    size = int(2 * (4 * params["dim"]) / 3)
    if "ffn_dim_multiplier" in params:
        size = int(params["ffn_dim_multiplier"] * size)
    return math.ceil(size / params["multiple_of"]) * params["multiple_of"]


def weights(params: dict[str, Any], heads: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Return random tensors by Meta's names; norms differ from 1, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(seed)
    width, inner = params["dim"], feed_forward_size(params)
    narrow = width // params["n_heads"] * params.get("n_kv_heads", params["n_heads"])

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.5

    found = {"tok_embeddings.weight": random(VOCAB, width), "output.weight": random(VOCAB, width)}
    found["norm.weight"] = 1 + random(width)
    trunk = [f"layers.{i}" for i in range(4)]
    for layer in [*trunk, *(f"extra_heads.{j}" for j in range(heads - 1))]:
        found |= {
            f"{layer}.attention.wq.weight": random(width, width),
            f"{layer}.attention.wk.weight": random(narrow, width),
            f"{layer}.attention.wv.weight": random(narrow, width),
            f"{layer}.attention.wo.weight": random(width, width),
            f"{layer}.feed_forward.w1.weight": random(inner, width),
            f"{layer}.feed_forward.w2.weight": random(width, inner),
            f"{layer}.feed_forward.w3.weight": random(inner, width),
            f"{layer}.attention_norm.weight": 1 + random(width),
            f"{layer}.ffn_norm.weight": 1 + random(width),
        }
    return found


def cut(tensors: dict[str, Tensor], num: int, embedding_dim: int = 1) -> list[dict[str, Tensor]]:
    """Return `num` model-parallel shards; the embedding is cut along `embedding_dim`."""
    shards: list[dict[str, Tensor]] = [{} for _ in range(num)]
    for name, tensor in tensors.items():
        part = name.split(".")[-2]
        dim = 0 if part in _BY_ROWS else 1 if part in _BY_COLUMNS else None
        dim = embedding_dim if part == "tok_embeddings" else dim
        pieces = [tensor] * num if dim is None else tensor.chunk(num, dim)
        for shard, piece in zip(shards, pieces, strict=True):
            shard[name] = piece.clone()
    return shards


def write(folder: Path, params: dict[str, Any], *shards: dict[str, Tensor], name: str = "") -> Path:
    """Write a release into `folder`; one shard goes to `name` where it is given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params))
    for i, shard in enumerate(shards):
        torch.save(shard, folder / (name or f"consolidated.{i:02d}.pth"))
    return folder


def logits(params: dict[str, Any], tensors: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Return the logits `[B,S,H,V]` of all heads."""
    hidden = tensors["tok_embeddings.weight"][tokens]
    layers = sum(name.endswith("wq.weight") and name.startswith("layers.") for name in tensors)
    extra = sum(name.endswith("wq.weight") and name.startswith("extra_heads.") for name in tensors)
    for i in range(layers - 1):
        hidden = _layer(params, tensors, f"layers.{i}.", hidden)
    heads = [f"layers.{layers - 1}.", *(f"extra_heads.{j}." for j in range(extra))]
    found = []
    for head in heads:
        last = _norm(params, tensors["norm.weight"], _layer(params, tensors, head, hidden))
        found.append(last @ tensors["output.weight"].T)
    return torch.stack(found, dim=2)


def _norm(params: dict[str, Any], scale: Tensor, x: Tensor) -> Tensor:
    return scale * x / (x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]).sqrt()


def _rotated(params: dict[str, Any], x: Tensor) -> Tensor:
    """Turn feature pairs (0, 1), (2, 3), ... of `[B,S,heads,d]`, as complex numbers, by position."""
    size = x.shape[-1]
    rates = params.get("rope_theta", 10000.0) ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(x.shape[1])[:, None] * rates
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn).flatten(-2)


def _layer(params: dict[str, Any], tensors: dict[str, Tensor], layer: str, x: Tensor) -> Tensor:
    def w(name: str) -> Tensor:
        return tensors[f"{layer}{name}.weight"]

    queries = params["n_heads"]
    keys = params.get("n_kv_heads", queries)
    size = params["dim"] // queries
    normed = _norm(params, w("attention_norm"), x)
    q = _rotated(params, (normed @ w("attention.wq").T).unflatten(-1, (queries, size)))
    k = _rotated(params, (normed @ w("attention.wk").T).unflatten(-1, (keys, size)))
    v = (normed @ w("attention.wv").T).unflatten(-1, (keys, size))
    k, v = (t.repeat_interleave(queries // keys, dim=2) for t in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(size)
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    shares = scores.masked_fill(future, -torch.inf).softmax(-1)
    x = x + torch.einsum("bhqk,bkhd->bqhd", shares, v).flatten(-2) @ w("attention.wo").T
    normed = _norm(params, w("ffn_norm"), x)
    gate = torch.nn.functional.silu(normed @ w("feed_forward.w1").T)
    return x + (gate * (normed @ w("feed_forward.w3").T)) @ w("feed_forward.w2").T
