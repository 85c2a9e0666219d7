"""Kinks are recorded as torch computes them, and held to the side that was recorded."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from taster.derivatives.activation_pattern import ActivationPattern, ActivationPatternError

KINKS = {
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "relu method": lambda x: x.relu(),
    "relu by name": lambda x: functional.relu(input=x),
    "leaky": nn.LeakyReLU(0.2, inplace=True),
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(-0.5, 0.7),
    "max-pool 1d": lambda x: nn.MaxPool1d(2)(x.flatten(2)),
    "max-pool 2d": nn.MaxPool2d(3, stride=2, padding=1),
    "max-pool by name": lambda x: torch.max_pool2d(x, kernel_size=2),
    "adaptive max-pool": nn.AdaptiveMaxPool2d(2),
    "max-pool 3d": lambda x: nn.MaxPool3d(2)(x[None]),
}


@pytest.mark.parametrize("name", list(KINKS))
def test_recording_and_holding_give_what_torch_gives(name: str) -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(2, 4, 6, 6, dtype=torch.float64)
    kink, branches = KINKS[name], ActivationPattern()
    expected = kink(x.clone())
    with branches.recording():
        recorded = kink(x.clone())
    with branches.replaying():
        held = kink(x.clone())
    assert torch.equal(recorded, expected)
    assert torch.equal(held, expected)


@pytest.mark.parametrize("name", list(KINKS))
def test_a_held_kink_is_the_straight_continuation_of_its_side(name: str) -> None:
    torch.manual_seed(0)
    x, move = 3 * torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    kink, branches = KINKS[name], ActivationPattern()
    leaf = x.clone().requires_grad_()
    with branches.recording():
        here = kink(leaf * 1)
    (slope,) = torch.autograd.grad(here.sum(), leaf)
    with branches.replaying():
        there = kink(x + 5 * move)  # far enough to cross many kinks
    branches.compact()
    with branches.replaying():
        assert torch.equal(kink(x + 5 * move), there)
    assert float(there.sum() - here.detach().sum()) == pytest.approx(5 * float((slope * move).sum()), rel=1e-9)
    assert not torch.allclose(kink(x + 5 * move), there)


def test_another_pass_is_refused() -> None:
    branches, x = ActivationPattern(), torch.randn(3)
    with branches.recording():
        torch.relu(x)
    with pytest.raises(ActivationPatternError, match="not go through the same operation"), branches.replaying():
        functional.leaky_relu(x)
    with pytest.raises(ActivationPatternError, match="not go through the same operation"), branches.replaying():
        torch.relu(torch.relu(x))
    with pytest.raises(ActivationPatternError, match="more operations"), branches.replaying():
        pass
