"""Objectives and divergences against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from taster.perturbations.objectives import cross_entropy_per_sample, divergence, margin, mart_loss, trades_loss


def test_the_margin_and_kl_are_their_formulas() -> None:
    torch.manual_seed(0)
    logits, reference, y = torch.randn(5, 4).double(), torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 3, 1])
    found = margin(logits, y)
    for i in range(5):
        others = [float(logits[i, j]) for j in range(4) if j != y[i]]
        assert float(found[i]) == pytest.approx(max(others) - float(logits[i, y[i]]))
    p, q = reference.softmax(1), logits.softmax(1)
    assert torch.allclose(divergence(reference, logits), (p * (p / q).log()).sum(1))


def test_the_losses_of_trades_and_mart_are_their_formulas() -> None:
    torch.manual_seed(0)
    logits, reference, y = torch.randn(5, 4).double(), torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 3, 1])
    q, p = logits.softmax(1), reference.softmax(1)
    rows = torch.arange(5)
    kl = (p * (p / q).log()).sum(1)
    entropy = -q[rows, y].log()
    assert torch.allclose(trades_loss(6.0)(logits, y, reference), entropy + 6 * kl)
    rival = torch.tensor([max(float(q[i, j]) for j in range(4) if j != y[i]) for i in range(5)]).double()
    boosted = entropy - (1 - rival).log()
    assert torch.allclose(mart_loss(5.0)(logits, y, reference), boosted + 5 * kl * (1 - p[rows, y]))
    certain = torch.tensor([[200.0, -200.0]])
    assert bool(mart_loss(5.0)(certain, torch.tensor([1]), certain).isfinite().all())


def test_the_divergences() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(6, 3).double(), torch.randn(6, 3).double()
    assert torch.allclose(divergence(a, a), torch.zeros(6).double(), atol=1e-12)
    assert not torch.allclose(divergence(a, b), divergence(b, a))
    assert torch.allclose(divergence(a, b, "js"), divergence(b, a, "js"))
    p, q = a.softmax(1), b.softmax(1)
    m = (p + q) / 2
    by_hand = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)) / 2
    assert torch.allclose(divergence(a, b, "js"), by_hand)
    far = divergence(torch.tensor([[50.0, -50.0]]), torch.tensor([[-50.0, 50.0]]), "js")
    assert float(far) == pytest.approx(math.log(2), abs=1e-5)


def test_each_carries_a_gradient() -> None:
    logits, y, other = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 1, 2]), torch.randn(3, 4)
    for loss in (cross_entropy_per_sample, trades_loss(6.0), mart_loss(5.0)):
        (slope,) = torch.autograd.grad(loss(logits, y, other).sum(), logits)
        assert bool((slope != 0).any(1).all())
    for found in (margin(logits, y), divergence(other, logits)):
        (slope,) = torch.autograd.grad(found.sum(), logits)
        assert bool((slope != 0).any(1).all())
