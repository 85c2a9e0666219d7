"""Adam on signs and random shifts: steps that are known, budgets, and gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from taster.errors import AttackError
from taster.perturbations.pgd import LpBall
from taster.perturbations.projected_adam import projected_adam
from taster.perturbations.random_shift import RandomShift, shifted
from taster.perturbations.signed_adam import signed_adam

BASE = torch.full((2, 3), 0.5, dtype=torch.float64)
BOX = LpBall("linf", 0.5)


def images(count: int, height: int = 5, width: int = 6) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.rand(count, 2, height, width, generator=draws, dtype=torch.float64)


def test_it_is_adam_on_signs_whose_rate_falls_after_three_eighths_five_and_seven() -> None:
    scale = torch.tensor([1e-6, -2.0, 300.0], dtype=torch.float64)
    x = BASE.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.01)
    for step in range(16):
        optimizer.param_groups[0]["lr"] = 0.01 * [1, 0.1, 0.01, 0.001][sum(step >= at for at in (6, 10, 14))]
        x.grad = -(scale * (1 if step % 3 else -1)).sign().expand(2, 3).clone()
        optimizer.step()
    steps = iter(range(16))
    found = signed_adam(
        lambda x: (scale * (1 if next(steps) % 3 else -1)).expand(2, 3), BASE, BOX, steps=16, step_size=0.01
    )
    torch.testing.assert_close(found, x.detach())


def test_a_value_moves_however_flat_the_objective_is_and_stays_in_the_ball() -> None:
    slope = torch.tensor([1e-12, -1e-12, 0.0], dtype=torch.float64).expand(2, 3)
    found = signed_adam(lambda x: slope, BASE, LpBall("linf", 0.05), steps=40, step_size=0.02)
    torch.testing.assert_close(found[0], torch.tensor([0.55, 0.45, 0.5], dtype=torch.float64))
    nothing = signed_adam(lambda x: torch.full_like(x, float("nan")), BASE, BOX, steps=3, step_size=0.1)
    assert torch.equal(nothing, BASE)


def test_a_factor_of_the_step_size_is_told_how_far_the_ascent_has_come() -> None:
    told: list[float] = []

    def factor_at(progress: float) -> float:
        told.append(progress)
        return 0.0

    found = projected_adam(torch.ones_like, BASE, BOX, steps=4, step_size=0.1, factor_at=factor_at)
    assert told == [0.0, 0.25, 0.5, 0.75]
    assert torch.equal(found, BASE)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (2, 0), (-1, 3), (0, -2)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_shift_by_whole_pixels_is_a_crop_after_zero_padding(right: int, down: int, mirrored: bool) -> None:
    x = images(3)
    padded = torch.nn.functional.pad(x, [3] * 4)
    expected = padded[:, :, 3 - down : 8 - down, 3 - right : 9 - right]
    every = torch.full((3,), 1.0, dtype=torch.float64)
    found = shifted(x, right * every, down * every, torch.full((3,), mirrored))
    torch.testing.assert_close(found, expected.flip(3) if mirrored else expected)


def test_half_a_pixel_is_the_mean_of_neighbours() -> None:
    x = images(1)
    found = shifted(x, torch.tensor([0.5]).double(), torch.tensor([0.0]).double(), torch.tensor([False]))
    torch.testing.assert_close(found[..., 1:], (x[..., 1:] + x[..., :-1]) / 2)


def test_shifts_stay_within_their_bound_differ_and_follow_from_the_generator() -> None:
    x = torch.zeros(200, 1, 9, 9)
    x[:, :, 4, 4] = 1
    first, again = (RandomShift(2.0)(x, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    middle = torch.arange(9.0) - 4
    columns, rows = (first.sum((1, 2)) * middle).sum(1), (first.sum((1, 3)) * middle).sum(1)
    for moves in (columns, rows):
        assert float(moves.abs().max()) <= 2.0 + 1e-4
        assert float(moves.min()) < -1.5 < 1.5 < float(moves.max())
    assert float((columns * rows).mean().abs()) < 0.5


def test_half_of_the_images_are_mirrored_and_no_more_happens() -> None:
    x = images(200)
    found = RandomShift(flip=True)(x, torch.Generator().manual_seed(2))
    same, turned = ([torch.allclose(a, b) for a, b in zip(found, each, strict=True)] for each in (x, x.flip(3)))
    assert all(a != b for a, b in zip(same, turned, strict=True))
    assert 70 < sum(same) < 130


def test_the_gradient_through_a_shift_is_that_of_finite_differences() -> None:
    x = images(2, 3, 4).requires_grad_()
    draw = RandomShift(1.5, flip=True)
    assert torch.autograd.gradcheck(lambda x: draw(x, torch.Generator().manual_seed(3)), x)


def test_what_is_no_image_is_told_where_something_is_asked_for() -> None:
    x = torch.rand(4, 7)
    assert RandomShift()(x, torch.Generator()) is x
    with pytest.raises(AttackError, match=r"shift, flip: got samples of shape \[7\], wanted images"):
        RandomShift(1.0)(x, torch.Generator())
