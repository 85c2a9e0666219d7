"""Objectives and divergences against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from taster.objectives import divergence, objective


def test_each_objective_is_its_formula() -> None:
    torch.manual_seed(0)
    logits, reference, y = torch.randn(5, 4).double(), torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 3, 1])
    assert torch.allclose(objective("cross_entropy")(logits, y), cross_entropy(logits, y, reduction="none"))
    margin = objective("margin")(logits, y)
    for i in range(5):
        others = [float(logits[i, j]) for j in range(4) if j != y[i]]
        assert float(margin[i]) == pytest.approx(max(others) - float(logits[i, y[i]]))
    p, q = reference.softmax(1), logits.softmax(1)
    assert torch.allclose(objective("kl", reference)(logits, y), (p * (p / q).log()).sum(1))
    with pytest.raises(ValueError, match="wants a reference"):
        objective("kl")


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


def test_an_objective_carries_a_gradient() -> None:
    logits, y = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 1, 2])
    for found in (objective("cross_entropy"), objective("margin"), objective("kl", torch.randn(3, 4))):
        (slope,) = torch.autograd.grad(found(logits, y).sum(), logits)
        assert bool((slope != 0).any(1).all())
