"""Losses in the order that costs least: the same sums, and fewer rows of logits."""

from __future__ import annotations

import pytest
import torch

from wmtp.losses import chunked
from wmtp.modeling.head_losses import HeadLosses

B, S, H, D, V = 2, 10, 4, 6, 11


def test_targets_left_out_after_head_0_are_never_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = [torch.randn(B, S, D, generator=generator, requires_grad=True) for _ in range(H)]
    unembedding = torch.randn(V, D, generator=generator, requires_grad=True)
    labels = torch.randint(0, V, (B, S, H), generator=generator)
    labels[0, :3] = -100
    uniform = (labels[..., 0] != -100).float()
    rows = []
    plain = chunked._Projection.logits

    def count(self, hidden):
        rows.append(len(hidden))
        return plain(self, hidden)

    monkeypatch.setattr(chunked._Projection, "logits", count)
    sums = []
    plain_sums = chunked._Gradients
    monkeypatch.setattr(
        chunked, "_Gradients", lambda *args: sums.append(plain_sums(*args)) or sums[-1]
    )

    def weigh(ce_0: torch.Tensor) -> torch.Tensor:
        kept = ce_0 > ce_0[labels[..., 0] != -100].median()
        return torch.where(kept, 2.0, 0.0)[..., None].repeat(1, 1, H)

    losses = HeadLosses(unembedding, {})
    total, ce = losses.after_head_0(hidden, labels, uniform, weigh)
    # Until the backward there are the gradients alone, those of the unembedding once for all heads.
    (held,) = sums
    elements = sum(x.numel() for x in vars(held).values() if isinstance(x, torch.Tensor))
    assert elements == B * S * H * D + V * D
    assert not [x for x in vars(held).values() if isinstance(x, chunked._Projection)]
    gradients = torch.autograd.grad(total, [*hidden, unembedding])
    weights = weigh(ce[..., 0])
    weights[..., 0] = uniform
    kept = int((weights[..., 1] > 0).sum())
    assert kept == 8
    assert sum(rows) == 17 + 3 * kept  # of 17 valid targets in every head

    expected, every = losses.weighted(hidden, labels, weights)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(
        gradients, torch.autograd.grad(expected, [*hidden, unembedding]), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(ce, every * (weights > 0))


def test_losses_of_the_scheme_itself_keep_their_gradient() -> None:
    """What is asked between head 0 and the others may have a loss, such as that of a value head."""
    hidden = [torch.randn(1, 3, D, requires_grad=True) for _ in range(2)]
    labels, slope, found = torch.zeros(1, 3, 2, dtype=torch.long), torch.ones(1), []
    slope.requires_grad_()

    def weigh(ce_0: torch.Tensor) -> torch.Tensor:
        found.append((slope * ce_0).sum())
        return torch.ones(1, 3, 2)

    losses = HeadLosses(torch.randn(V, D), {})
    total, ce = losses.after_head_0(hidden, labels, torch.ones(1, 3), weigh)
    (total + found[0]).backward()
    assert slope.grad.item() == pytest.approx(ce[..., 0].sum().item())
    with torch.no_grad():
        losses.after_head_0(hidden, labels, torch.ones(1, 3), weigh)
    assert not found[1].requires_grad


def test_a_single_head_is_head_0() -> None:
    hidden, labels = [torch.randn(1, 3, D)], torch.randint(0, V, (1, 3, 1))
    losses = HeadLosses(torch.randn(V, D), {})
    total, ce = losses.after_head_0(hidden, labels, torch.ones(1, 3), lambda ce_0: ce_0[..., None])
    assert total == pytest.approx(ce.sum().item())
