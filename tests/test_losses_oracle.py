"""The losses against plain torch in float64, over shapes, forms, layouts and settings drawn at random."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wmtp.losses import (
    chunked,
    linear_cross_entropy,
    linear_cross_entropy_and_entropy,
    weighted_linear_cross_entropy,
)

LAYOUTS = {
    "plain": lambda x: x,
    "transposed": lambda x: x.t().contiguous().t() if x.dim() == 2 else x,
    "every second": lambda x: torch.stack([x, x + 7], dim=-1)[..., 0],
}
CASES = st.fixed_dictionaries(
    {
        "num": st.integers(0, 70),
        "width": st.integers(1, 9),
        "vocab": st.sampled_from([1, 2, 3, 17, 33, 64]),
        "ignored": st.sampled_from([0.0, 0.5, 1.0]),
        "ignore_index": st.sampled_from([-100, 0]),
        "with_bias": st.booleans(),
        "scale": st.sampled_from([1.0, 0.0, -0.7, 2.5]),
        "softcap": st.sampled_from([None, 1.0, 30.0]),
        "backend": st.sampled_from(["torch", "auto"]),
        "learned": st.tuples(st.booleans(), st.booleans(), st.booleans()),
        "layout": st.sampled_from(list(LAYOUTS)),
        "dtype": st.sampled_from([torch.float64, torch.float32]),
        "chunk": st.sampled_from([1, 40, 300, 1 << 22]),
        "part": st.sampled_from([(512, 1 << 19), (4, 16), (7, 64)]),
        "seed": st.integers(0, 1 << 20),
    }
)


def exact(case: dict[str, Any], tensors: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross entropy and entropy of every target by plain torch."""
    hidden, weight, bias = tensors
    logits = case["scale"] * F.linear(hidden, weight, bias if case["with_bias"] else None)
    if case["softcap"] is not None:
        logits = case["softcap"] * torch.tanh(logits / case["softcap"])
    log_p = logits.log_softmax(-1)
    valid = labels != case["ignore_index"]
    ce = -log_p.gather(1, labels.clamp(min=0)[:, None]).squeeze(1)
    return ce * valid, -(log_p.exp() * log_p).sum(1).detach() * valid


@settings(max_examples=120, deadline=None)
@given(CASES)
def test_values_and_gradients(case: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(case["seed"])
    num, width, vocab = case["num"], case["width"], case["vocab"]
    drawn = [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((num, width), (vocab, width), (vocab,), (num,))
    ]
    ignored = torch.rand(num, generator=generator) < case["ignored"]
    labels = torch.randint(vocab, (num,), generator=generator)
    labels = labels.masked_fill(ignored, case["ignore_index"])
    weights = drawn.pop() * (torch.rand(num, generator=generator) < 0.6)

    def learned(tensors: list[Tensor]) -> list[Tensor]:
        used = (True, True, case["with_bias"])
        return [x for x, use in zip(tensors, used, strict=True) if use and x.requires_grad]

    flags = case["learned"]
    want = [x.clone().requires_grad_(flag) for x, flag in zip(drawn, flags, strict=True)]
    ce, entropy = exact(case, want, labels)
    expected = torch.autograd.grad((ce * weights).sum(), learned(want)) if learned(want) else ()

    place = LAYOUTS[case["layout"]]
    ours = [
        place(x.to(case["dtype"])).detach().requires_grad_(flag)
        for x, flag in zip(drawn, flags, strict=True)
    ]
    options = {
        "bias": ours[2] if case["with_bias"] else None,
        "logit_scale": case["scale"],
        "softcap": case["softcap"],
        "ignore_index": case["ignore_index"],
        "backend": case["backend"],
    }
    own_weights = weights.to(case["dtype"])
    tolerance = 1e-9 if case["dtype"] == torch.float64 else 2e-4

    def same(found: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)

    rows, elements = case["part"]
    with (
        patch.object(chunked, "_CHUNK_ELEMENTS", case["chunk"]),
        patch.object(chunked, "_PART_ROWS", rows),
        patch.object(chunked, "_PART_ELEMENTS", elements),
    ):
        alone = linear_cross_entropy(*ours[:2], labels, **options)
        both = linear_cross_entropy_and_entropy(*ours[:2], labels, **options)
        total, known = weighted_linear_cross_entropy(*ours[:2], labels, own_weights, **options)
        same(alone, ce.detach())
        same(both[1], entropy)
        same(known, ce.detach())
        for loss in ((alone * own_weights).sum(), (both[0] * own_weights).sum(), total):
            same(loss.detach(), (ce * weights).sum().detach())
            assert loss.requires_grad == bool(learned(ours))
            if learned(ours):
                found = torch.autograd.grad(loss, learned(ours))
                for gradient, wanted in zip(found, expected, strict=True):
                    same(gradient, wanted)


@pytest.mark.parametrize("known", [True, False])
def test_second_derivatives_are_refused(known: bool) -> None:
    hidden = torch.randn(6, 4, requires_grad=True)
    weight, labels, weights = torch.randn(9, 4), torch.arange(6), torch.rand(6)
    loss = (
        weighted_linear_cross_entropy(hidden, weight, labels, weights)[0]
        if known
        else (linear_cross_entropy(hidden, weight, labels) * weights).sum()
    )
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(loss, hidden, create_graph=True)
