"""The next token of every row, from its logits and one random number of its own."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

# Likeliest tokens that a nucleus is looked for in before a row of logits is sorted as a whole.
_CANDIDATES = 256


def uniforms(seed: int, task_id: str, sample_id: int, number: int) -> np.ndarray:
    """Return `number` float32 random numbers in [0, 1) that belong to this sample alone.

    A longer sequence begins with the shorter one. The generator is Philox (Salmon et al. 2011), keyed by
    a hash of the arguments.
    """
    digest = hashlib.sha256(f"{seed}\0{sample_id}\0{task_id}".encode(errors="surrogatepass"))
    key = int.from_bytes(digest.digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random(number, dtype=np.float32)


def draw(
    logits: Float[Tensor, "B V"], uniforms: Float[Tensor, " B"], temperature: float, top_p: float
) -> Int[Tensor, " B"]:
    """Return one token per row by inversion of its distribution; temperature 0 is the likeliest.

    top_p: draw from the smallest set of likeliest tokens with at least this probability (nucleus
    sampling, Holtzman et al. 2020, arXiv:1904.09751). What a row gives depends on no other row.
    """
    if temperature == 0:
        return logits.argmax(-1)
    if logits.device.type == "mps":  # has no float64
        logits, uniforms = logits.cpu(), uniforms.cpu()
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p >= 1:
        return _inverted(probabilities.cumsum(-1, dtype=torch.float64), uniforms)
    values, ids = probabilities.topk(min(_CANDIDATES, logits.shape[-1]))
    found = _from_nucleus(values, ids, uniforms, top_p)
    missed = values.sum(-1, dtype=torch.float64) < top_p
    if values.shape[-1] < logits.shape[-1] and missed.any():
        values, ids = probabilities[missed].sort(descending=True)
        found[missed] = _from_nucleus(values, ids, uniforms[missed], top_p)
    return found


def _from_nucleus(values: Tensor, ids: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """Return a token per row from `ids [B,K]` with probabilities `values`, which fall."""
    cumulative = values.cumsum(-1, dtype=torch.float64)
    beyond = cumulative - values >= top_p
    return ids.gather(-1, _inverted(cumulative.masked_fill(beyond, 0.0), uniforms)[:, None])[:, 0]


def _inverted(cumulative: Tensor, uniforms: Tensor) -> Tensor:
    """Return the first place of every row whose cumulative probability is above its random number.

    A number scales with the row's largest entry; what stands after that one is out of reach.
    """
    target = uniforms.double()[:, None] * cumulative.amax(-1, keepdim=True)
    return (cumulative > target).to(torch.uint8).argmax(-1)
