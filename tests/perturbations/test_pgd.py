"""Balls hold for any input; PGD finds what it climbs to."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from taster.errors import AttackError
from taster.perturbations.pgd import LpBall, pgd

SAMPLES = arrays("float32", (3, 1, 2, 2), elements=st.floats(width=32, allow_nan=True, allow_infinity=True))
CLEAN = arrays("float32", (3, 1, 2, 2), elements=st.floats(0, 1, width=32))


def inside(x: torch.Tensor, clean: torch.Tensor, ball: LpBall) -> bool:
    change = (x - clean).flatten(1)
    size = change.abs().amax(1) if ball.norm == "linf" else change.double().norm(dim=1)
    within = bool((size <= ball.epsilon * (1 + 1e-5) + 1e-6).all())
    return within and bool((x >= ball.low).all()) and bool((x <= ball.high).all())


@settings(max_examples=300, deadline=None)
@given(SAMPLES, CLEAN, st.sampled_from(["linf", "l2"]), st.floats(0, 3))
def test_projection_holds_for_any_input(x, clean, norm, epsilon) -> None:
    ball, clean = LpBall(norm, epsilon), torch.from_numpy(clean)
    projected = ball.project(torch.from_numpy(x), clean)
    assert inside(projected, clean, ball)
    again = ball.project(projected, clean)
    assert torch.allclose(again, projected, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(SAMPLES, CLEAN, st.sampled_from(["linf", "l2"]), st.floats(0, 1), st.floats(0, 100))
def test_a_step_along_any_gradient_stays_inside(gradient, clean, norm, epsilon, size) -> None:
    ball, clean = LpBall(norm, epsilon), torch.from_numpy(clean)
    assert inside(ball.step(clean, torch.from_numpy(gradient), size, clean), clean, ball)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_draws_stay_inside_and_go_by_the_generator(norm: str) -> None:
    ball, clean = LpBall(norm, 0.3), torch.full((50, 1, 3, 3), 0.5)
    for draw in (ball.random, ball.random_boundary):
        a, b = (draw(clean, torch.Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(a, b)
        assert inside(a, clean, ball)
    edge = (ball.random_boundary(clean, torch.Generator().manual_seed(1)) - clean).flatten(1)
    size = edge.abs().amin(1) if norm == "linf" else edge.norm(dim=1)
    assert torch.allclose(size, torch.full((50,), 0.3), atol=1e-5)
    assert not torch.equal(ball.random(clean, torch.Generator().manual_seed(1)), clean)


@pytest.mark.parametrize(("norm", "expected"), [("linf", [0.7, 0.3]), ("l2", [0.5 + 0.2 * 0.8, 0.5 - 0.2 * 0.6])])
def test_pgd_climbs_to_the_best_point_of_the_ball(norm: str, expected: list[float]) -> None:
    clean = torch.full((1, 2), 0.5)
    slope = torch.tensor([[0.8, -0.6]])
    found = pgd(lambda x: slope, clean, LpBall(norm, 0.2), steps=20, step_size=0.05)
    assert torch.allclose(found, torch.tensor([expected]), atol=1e-5)
    assert torch.equal(clean, torch.full((1, 2), 0.5))


def test_pgd_starts_where_it_is_refused() -> None:
    clean = torch.full((1, 2), 0.5)
    ball = LpBall("linf", 0.1)
    found = pgd(lambda x: torch.zeros_like(x), clean, ball, steps=1, step_size=1.0, init=clean + 9)
    assert torch.allclose(found, torch.full((1, 2), 0.6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "l1"}, "norm: got 'l1'"),
        ({"epsilon": -0.1}, "epsilon: got -0.1"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"low": 1.0, "high": 0.0}, "wanted low below high"),
    ],
)
def test_bad_balls_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        LpBall(**arguments)


def test_momentum_goes_on_where_the_gradient_turns() -> None:
    """MIM by hand: g ← μ g + ∇ / ‖∇‖₁ for each sample, then one step along its sign."""
    clean, ball = torch.full((2, 3), 0.5), LpBall("linf", 0.4)
    slopes = iter([torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([[-1.0, 3.0, 4.0], [1.0, 0.0, 0.0]])])
    found = pgd(lambda _: next(slopes), clean, ball, steps=2, step_size=0.1, momentum=1.0)
    # the first sample's momentum is (3/4 - 1/8, 1/4 + 3/8, 4/8): all up
    assert torch.allclose(found, torch.tensor([[0.7, 0.7, 0.6], [0.6, 0.5, 0.5]]))
    same = pgd(lambda x: x, clean, ball, steps=3, step_size=0.1)
    assert torch.equal(same, pgd(lambda x: x, clean, ball, steps=3, step_size=0.1, momentum=0.0))
