"""Adam and forward-backward splitting in the samples: optima that are known, budgets, and when they end."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from taster.perturbations.forward_backward import forward_backward
from taster.perturbations.pgd import LpBall
from taster.perturbations.projected_adam import projected_adam

BASE = torch.full((3, 4), 0.5, dtype=torch.float64)
GOAL = torch.tensor([[0.9], [0.4], [0.55]], dtype=torch.float64).expand(3, 4)
BOX = LpBall("linf", 1.0)


def squared(x: Tensor) -> tuple[Tensor, Tensor]:
    return (x - GOAL).square().sum(1), 2 * (x - GOAL)


@pytest.mark.parametrize("weight", [0.0, 0.25, 3.0])
def test_forward_backward_reaches_the_minimum_of_the_sum(weight: float) -> None:
    found = forward_backward(squared, BASE, BOX, weight=weight, steps=400, step_size=0.01)
    torch.testing.assert_close(found, (GOAL + weight * BASE) / (1 + weight), rtol=0, atol=1e-6)


def test_forward_backward_stays_in_its_ball_and_takes_its_best_point() -> None:
    ball = LpBall("linf", 0.1)
    found = forward_backward(squared, BASE, ball, weight=0.0, steps=200, step_size=10.0)
    torch.testing.assert_close(found, ball.project(GOAL.clone(), BASE), rtol=0, atol=1e-6)


def test_no_sample_changes_what_becomes_of_another() -> None:
    def steep(x: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.tensor([[1.0], [1000.0], [0.01]], dtype=torch.float64)[: len(x)]
        return (scale * (x - GOAL[: len(x)]) ** 2).sum(1), 2 * scale * (x - GOAL[: len(x)])

    together = forward_backward(steep, BASE, BOX, weight=0.1, steps=60, step_size=0.1)
    alone = forward_backward(steep, BASE[:1], BOX, weight=0.1, steps=60, step_size=0.1)
    torch.testing.assert_close(together[:1], alone)


def test_forward_backward_ends_when_ten_steps_change_little() -> None:
    calls = 0

    def counted(x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return squared(x)

    forward_backward(counted, BASE, BOX, weight=1.0, steps=1000, step_size=0.1, tolerance=1e-3)
    assert calls <= 41
    calls = 0
    forward_backward(counted, BASE, BOX, weight=1.0, steps=25, step_size=0.1)
    assert calls == 26


def test_adam_ascends_to_the_optimum_in_the_ball() -> None:
    ball = LpBall("linf", 0.2)
    found = projected_adam(lambda x: -squared(x)[1], BASE, ball, steps=300, step_size=0.01)
    torch.testing.assert_close(found, ball.project(GOAL.clone(), BASE), rtol=0, atol=1e-3)
    assert not found.requires_grad
    assert torch.equal(BASE, torch.full_like(BASE, 0.5))


def test_adam_is_torchs_own_where_nothing_is_projected() -> None:
    x = BASE.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.003)
    for _ in range(5):
        optimizer.zero_grad()
        (x - GOAL).square().sum().backward()
        optimizer.step()
    found = projected_adam(lambda x: -squared(x)[1], BASE, BOX, steps=5, step_size=0.003)
    torch.testing.assert_close(found, x.detach())


def test_adam_ends_when_it_is_told_and_begins_where_it_is_told() -> None:
    seen: list[Tensor] = []

    def gradient(x: Tensor) -> Tensor | None:
        seen.append(x)
        return None if len(seen) == 3 else torch.ones_like(x)

    found = projected_adam(gradient, BASE, LpBall("linf", 0.1), steps=10, step_size=0.5, init=BASE + 1)
    assert len(seen) == 3
    torch.testing.assert_close(seen[0], BASE + 0.1)
    torch.testing.assert_close(found, BASE + 0.1)


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    found = projected_adam(lambda x: torch.full_like(x, float("nan")), BASE, BOX, steps=3, step_size=0.1)
    assert torch.equal(found, BASE)
