"""Losses against plain loops and torch's own cross entropy, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from wmtp import losses
from wmtp.losses import horizon_labels, linear_cross_entropy


def test_horizon_labels_by_hand() -> None:
    labels = torch.tensor([[-100, 11, 12, 13]])
    assert horizon_labels(labels, 3).tolist() == [
        [[11, 12, 13], [12, 13, -100], [13, -100, -100], [-100, -100, -100]]
    ]


def test_horizon_labels_do_not_cross_documents() -> None:
    labels = torch.arange(10, 15)[None]
    documents = torch.tensor([[0, 0, 1, 1, 1]])
    found = horizon_labels(labels, 2, documents)
    assert found[0].tolist() == [[11, -100], [-100, -100], [13, 14], [14, -100], [-100, -100]]


@pytest.mark.parametrize("num_heads", [1, 4, 9])
def test_horizon_labels_against_loops(num_heads: int) -> None:
    labels = torch.randint(0, 50, (3, 6))
    found = horizon_labels(labels, num_heads)
    for b in range(3):
        for t in range(6):
            for k in range(num_heads):
                want = labels[b, t + k + 1] if t + k + 1 < 6 else -100
                assert found[b, t, k] == want


def test_horizon_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        horizon_labels(torch.zeros(1, 3, dtype=torch.long), 0)


def inputs(num: int, width: int, vocab: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(num)
    hidden = torch.randn(num, width, dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(vocab, width, dtype=dtype, generator=generator, requires_grad=True)
    bias = torch.randn(vocab, dtype=dtype, generator=generator, requires_grad=True)
    labels = torch.randint(0, vocab, (num,), generator=generator)
    labels[::4] = -100
    grad = torch.rand(num, dtype=dtype, generator=generator)
    grad[::3] = 0
    return hidden, weight, bias, labels, grad


@pytest.mark.parametrize("chunk", [1, 300, 1 << 23])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.7, None), (1.0, 3.0), (1.7, 2.0)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_cross_entropy_equals_torch(
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    scale: float,
    softcap: float | None,
    with_bias: bool,
) -> None:
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", chunk)
    hidden, weight, bias, labels, grad = inputs(53, 7, 19)
    chosen = bias if with_bias else None
    ce = linear_cross_entropy(
        hidden, weight, labels, bias=chosen, logit_scale=scale, softcap=softcap
    )
    logits = scale * F.linear(hidden, weight, chosen)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    want = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(ce, want)
    parameters = [hidden, weight, bias] if with_bias else [hidden, weight]
    found = torch.autograd.grad((ce * grad).sum(), parameters)
    expected = torch.autograd.grad((want * grad).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision_gives_float32_results() -> None:
    hidden, weight, _, labels, grad = inputs(40, 16, 30, torch.float32)
    low_h, low_w = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))
    ce = linear_cross_entropy(low_h, low_w, labels)
    assert ce.dtype == torch.float32
    exact = F.cross_entropy(low_h.double() @ low_w.double().T, labels, reduction="none")
    torch.testing.assert_close(ce.double(), exact, rtol=1e-5, atol=1e-5)
    (ce * grad).sum().backward()
    assert low_h.grad.dtype == torch.bfloat16
    assert low_w.grad.dtype == torch.bfloat16


def test_all_ignored_is_a_finite_zero() -> None:
    hidden, weight, _, labels, _ = inputs(8, 4, 9)
    ce = linear_cross_entropy(hidden, weight, torch.full_like(labels, -100))
    assert ce.tolist() == [0.0] * 8
    ce.sum().backward()
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_frozen_unembedding_gets_no_gradient() -> None:
    hidden, weight, _, labels, _ = inputs(8, 4, 9)
    linear_cross_entropy(hidden, weight.detach(), labels).sum().backward()
    assert hidden.grad.abs().sum() > 0
    assert weight.grad is None


def test_rows_without_gradient_are_never_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, _, labels, _ = inputs(40, 4, 9)
    ce = linear_cross_entropy(hidden, weight, labels)
    rows = []
    plain = losses._logits
    monkeypatch.setattr(losses, "_logits", lambda h, *rest: rows.append(len(h)) or plain(h, *rest))
    keep = torch.zeros(40, dtype=torch.float64)
    keep[[1, 2, 4, 5]] = 1  # row 4 is ignored
    (ce * keep).sum().backward()
    assert sum(rows) == 3


@pytest.mark.parametrize("wrong", [-1, 9])
def test_a_label_outside_the_vocabulary_is_refused(wrong: int) -> None:
    hidden, weight, _, labels, _ = inputs(8, 4, 9)
    labels[3] = wrong
    with pytest.raises(ValueError, match=f"label {wrong} is outside the vocabulary of 9"):
        linear_cross_entropy(hidden, weight, labels)
