"""Noise beside the samples of a set: what moves, how far, and what it can be put on afterwards."""

from __future__ import annotations

import pytest
import torch
from tests.attacks.unlearnable.noise_problems import images, knowledge, sizes
from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.online_attack import PerturbationSettings
from taster.attacks.unlearnable.set_noise import SetNoise, noise_attack, total_slope
from taster.core.batch import Batch
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall, Norm, pgd

CLEAN = images()
ROWS = torch.tensor([1, 4, 6, 7, 20])


def towards_one(x: Tensor, y: Tensor) -> Tensor:
    """Of −½‖1 + y − x‖²."""
    return 1 + y[:, None, None, None] - x


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("batch_size", [2, 5])
def test_noise_of_each_sample_is_pgd_on_it_whatever_the_batches(norm: Norm, batch_size: int) -> None:
    ball = LpBall(norm, 0.3)
    noise = SetNoise(CLEAN, ROWS, ball)
    noise.ascend(towards_one, steps=4, step_size=0.1, batch_size=batch_size)
    x, y = CLEAN.x[ROWS], CLEAN.y[ROWS]
    wanted = pgd(lambda at: towards_one(at, y), x, ball, steps=4, step_size=0.1)
    torch.testing.assert_close(noise.perturbed.x, wanted)
    assert torch.equal(noise.samples.x[1], noise.perturbed.x[0])
    others = [i for i in range(len(CLEAN)) if i not in ROWS.tolist()]
    assert torch.equal(noise.samples.x[others], CLEAN.x[others])


def test_a_second_pass_goes_on_from_the_first() -> None:
    once, twice = SetNoise(CLEAN, ROWS, LpBall("l2", 2.0)), SetNoise(CLEAN, ROWS, LpBall("l2", 2.0))
    once.ascend(towards_one, steps=6, step_size=0.1, batch_size=5)
    for _ in range(2):
        twice.ascend(towards_one, steps=3, step_size=0.1, batch_size=5)
    torch.testing.assert_close(once.values, twice.values)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_class_noise_follows_the_sum_over_its_class(norm: Norm) -> None:
    noise = SetNoise(CLEAN, ROWS, LpBall(norm, 0.3), classes=3)
    weight = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    noise.ascend(lambda x, y: weight, steps=1, step_size=0.1, batch_size=5)
    y = CLEAN.y[ROWS].tolist()
    assert sorted(set(y)) == [0, 1, 2]
    for label in range(3):
        total = sum(weight[i] for i in range(5) if y[i] == label)
        assert isinstance(total, Tensor)
        step = total.sign() if norm == "linf" else total / total.norm()
        torch.testing.assert_close(noise.values[label], 0.1 * step)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturbations_follow_a_function_of_them_alone_within_the_ball(norm: Norm) -> None:
    noise = SetNoise(CLEAN, ROWS, LpBall(norm, 0.3))
    target = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    noise.follow(lambda values: values - target, steps=1, step_size=0.1)
    step = target.sign() if norm == "linf" else target / target.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(noise.values, 0.1 * step)
    noise.follow(lambda values: values - target, steps=50, step_size=0.1)
    assert bool((sizes(noise.values, norm) <= 0.3 + 1e-6).all())


def test_a_class_without_samples_keeps_its_noise() -> None:
    only = torch.tensor([0, 3, 6])  # of class 0
    noise = SetNoise(CLEAN, only, LpBall("linf", 0.3), classes=3)
    noise.ascend(lambda x, y: torch.ones_like(x), steps=9, step_size=0.1, batch_size=2)
    assert bool((noise.values[0] == torch.tensor(0.3)).all())
    assert not noise.values[1:].any()


def test_class_noise_serves_new_samples_within_budget_and_range() -> None:
    noise = SetNoise(CLEAN, ROWS, LpBall("linf", 0.4), classes=3)
    noise.draw(torch.Generator().manual_seed(3), boundary=True)
    new = images(7, seed=9)
    found = noise.apply(new.x, new.y)
    assert bool((found >= 0).all())
    assert bool((found <= 1).all())
    inside = (new.x + noise.values[new.y] > 0) & (new.x + noise.values[new.y] < 1)
    torch.testing.assert_close((found - new.x)[inside], noise.values[new.y][inside])
    assert bool(inside.any())


@pytest.mark.parametrize("boundary", [False, True])
def test_draws_stay_in_the_ball_around_zero(boundary: bool) -> None:
    noise = SetNoise(CLEAN, ROWS, LpBall("linf", 0.1))
    noise.draw(torch.Generator().manual_seed(3), boundary=boundary)
    assert float(noise.values.abs().max()) <= 0.1 + 1e-7
    assert bool((noise.values.abs() > 0.0999).all()) == boundary
    assert bool((noise.values < 0).any())


def test_values_that_are_set_are_projected() -> None:
    noise = SetNoise(CLEAN, ROWS, LpBall("l2", 0.5))
    noise.set(torch.ones_like(noise.values))
    torch.testing.assert_close(sizes(noise.values, "l2"), torch.full((5,), 0.5))


def test_gradients_of_several_nets_add_up() -> None:
    both = total_slope([towards_one, lambda x, y: x])
    torch.testing.assert_close(both(CLEAN.x, CLEAN.y), (1 + CLEAN.y[:, None, None, None]).expand_as(CLEAN.x).float())


def test_what_noise_cannot_be_put_on() -> None:
    with pytest.raises(AttackError, match="each sample by itself, wanted class-wise noise"):
        SetNoise(CLEAN, ROWS, LpBall()).apply(CLEAN.x, CLEAN.y)
    noise = SetNoise(CLEAN, ROWS, LpBall(), classes=3)
    with pytest.raises(AttackError, match=r"got samples \[30, 6, 6\].*wanted \[k, 1, 6, 6\]"):
        noise.apply(CLEAN.x[:, 0], CLEAN.y)
    with pytest.raises(AttackError, match="got classes from 1 to 3, wanted 0 to 2"):
        noise.apply(CLEAN.x, CLEAN.y + 1)


def fill(noise: SetNoise, knowledge: DatasetKnowledge) -> None:
    noise.set(torch.ones_like(noise.values))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("class_wise", [False, True])
def test_an_attack_changes_its_share_within_the_budget(norm: Norm, class_wise: bool) -> None:
    perturbation = PerturbationSettings(epsilon=0.2, norm=norm, poison_fraction=0.5)
    attack = noise_attack("mine", perturbation, fill, class_wise=class_wise)
    found = attack(CLEAN, knowledge())
    assert int(found.poisoned.sum()) == 15
    assert torch.equal(found.samples.y, CLEAN.y)
    reach = sizes(found.samples.x - CLEAN.x, norm)
    assert float(reach.max()) == pytest.approx(0.2, abs=1e-6)
    made = attack.noise(CLEAN, knowledge())
    torch.testing.assert_close(made.samples.x, found.samples.x)


def test_what_an_attack_refuses() -> None:
    with pytest.raises(AttackError, match=r"mine: got samples of torch.int64 or not finite"):
        noise_attack("mine", PerturbationSettings(), fill).noise(Batch(CLEAN.x.long(), CLEAN.y), knowledge())
    with pytest.raises(AttackError, match=r"mine: got samples of torch.float32 or not finite"):
        noise_attack("mine", PerturbationSettings(), fill)(Batch(CLEAN.x / 0, CLEAN.y), knowledge())
    few = noise_attack("mine", PerturbationSettings(poison_fraction=0.01), fill)
    with pytest.raises(AttackError, match=r"mine: poison_fraction: got 0.01, which is no sample of 30"):
        few.noise(CLEAN, knowledge())
