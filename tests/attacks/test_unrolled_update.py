"""The gradients of the loss after one update, against autograd through it and against each other."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.attacks.conftest import RATE, easy_batch, easy_learner
from torch.nn.functional import cross_entropy

from taster import Batch, Learner
from taster.attacks.online.generative import normal_data_gradient
from taster.attacks.unrolled_update import (
    UNROLLED_METHOD,
    OneStepUpdate,
    finite_difference_gradient,
    first_order_gradient,
    unrolled_gradient,
)
from taster.derivatives import Derivatives


def test_the_unrolled_gradient_is_autograd_through_the_update() -> None:
    view = easy_learner(torch.float64, smooth=True).view()
    normal, poison = easy_batch(40, seed=5, dtype=torch.float64), easy_batch(3, seed=6, dtype=torch.float64)
    poison = Batch(poison.x, (poison.y + 1) % 3)
    injection = OneStepUpdate(view, normal, RATE)
    everyone = torch.ones(3, dtype=torch.bool)

    x = poison.x.clone().requires_grad_(True)
    leaves = {name: value.clone().requires_grad_(True) for name, value in view.trainable.items()}
    slopes = torch.autograd.grad(view.loss(x, poison.y, params=leaves), list(leaves.values()), create_graph=True)
    after = {name: leaves[name] - RATE * slope for name, slope in zip(leaves, slopes, strict=True)}
    harm = view.loss(normal.x, normal.y, params=after)
    (unrolled,) = torch.autograd.grad(harm, x)
    truth = pytest.approx(float(harm.detach()), rel=1e-12)

    value, slope = unrolled_gradient(injection, Derivatives(UNROLLED_METHOD))(poison)
    assert value == truth
    assert injection.loss_after(poison) == truth
    assert torch.allclose(slope(), unrolled, rtol=1e-9, atol=1e-14)
    value, slope = finite_difference_gradient(injection, everyone, 1e-6)(poison)
    assert value == truth
    assert torch.allclose(slope(), unrolled, rtol=1e-3, atol=1e-8)


def test_differences_leave_out_what_may_not_move() -> None:
    injection = OneStepUpdate(easy_learner().view(), easy_batch(20, seed=5), RATE)
    poison, chosen = easy_batch(3, seed=6), torch.tensor([False, True, False])
    slopes = finite_difference_gradient(injection, chosen, 0.01)(poison)[1]()
    assert not bool(slopes[0].any())
    assert bool(slopes[1].any())
    assert not bool(slopes[2].any())


def test_the_first_order_gradient_is_the_exact_one_of_a_short_update() -> None:
    view, poison = easy_learner(torch.float64, smooth=True).view(), easy_batch(2, seed=6, dtype=torch.float64)
    normal = easy_batch(40, seed=5, dtype=torch.float64)
    poison = Batch(poison.x, (poison.y + 1) % 3)

    def share(rate: float) -> float:
        injection = OneStepUpdate(view, normal, rate)
        found = first_order_gradient(injection, Derivatives(UNROLLED_METHOD))(poison)[1]()
        truth = unrolled_gradient(injection, Derivatives(UNROLLED_METHOD))(poison)[1]()
        return float((found - truth).norm() / truth.norm())

    assert share(1e-6) < 1e-4
    assert share(RATE) > 10 * share(1e-3)


def test_the_normal_data_gradient_is_summed_over_the_group_after_the_update() -> None:
    model = easy_learner(torch.float64)
    normal, poison = easy_batch(15, seed=5, dtype=torch.float64), easy_batch(2, seed=6, dtype=torch.float64)
    loss, direction = normal_data_gradient(OneStepUpdate(model.view(), normal, RATE))(poison)
    twin = copy.deepcopy(model.model)
    Learner(twin, torch.optim.SGD(twin.parameters(), lr=RATE), cross_entropy).step(poison)
    x = normal.x.clone().requires_grad_(True)
    value = cross_entropy(twin(x), normal.y)
    (slopes,) = torch.autograd.grad(value, x)
    assert loss == pytest.approx(float(value.detach()), rel=1e-9)
    assert torch.allclose(direction(), slopes.sum(0, keepdim=True), rtol=1e-7, atol=1e-12)
