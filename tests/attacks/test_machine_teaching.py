"""Training samples moved so that a convex learner arrives where the attacker wants."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.attacks.poison_problems import central_differences, digit_roles, error, gaussians, knows

from taster import Batch
from taster.attacks import ConvexSettings, DatasetPoisonSettings, influence_selection, machine_teaching
from taster.attacks.dataset.flat_samples import flat_samples
from taster.attacks.dataset.machine_teaching import teaching_objective
from taster.derivatives.convex_losses import LOSSES, ConvexLoss
from taster.derivatives.convex_models import train_convex
from taster.errors import AttackError, SettingError

CLEAN, OWN = gaussians(40, 0, classes=3), gaussians(30, 1, classes=3)


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("goal", ["validation_loss", "target"])
@pytest.mark.parametrize("exact_up_to", [2000, 1])
def test_the_gradient_is_that_of_training_again(loss: ConvexLoss, goal: str, exact_up_to: int) -> None:
    flat = flat_samples(CLEAN, knows(OWN, 3), "test")
    settings = ConvexSettings(loss=loss, l2=0.05, exact_up_to=exact_up_to, solve_tolerance=1e-12)
    learned, rows = train_convex(settings, flat.x, flat.y, 3), torch.tensor([1, 5])
    target = -learned.theta if goal == "target" else None
    objective = teaching_objective(flat, learned, rows, target, effort=0.3)
    at = flat.x[rows] + 0.1
    torch.testing.assert_close(
        objective(at)[1](), central_differences(lambda x: objective(x)[0], at), atol=1e-7, rtol=1e-4
    )


@pytest.mark.parametrize("loss", list(LOSSES))
def test_what_is_learned_comes_nearer_to_the_target_than_by_noise(loss: ConvexLoss) -> None:
    settings, share = ConvexSettings(loss=loss, l2=0.05), DatasetPoisonSettings(poison_fraction=0.3)
    learned = train_convex(settings, CLEAN.x, CLEAN.y, 3)

    def distance(train: Batch, target: torch.Tensor) -> float:
        return float((train_convex(settings, train.x, train.y, 3).theta - target).norm())

    noise = influence_selection(
        model=settings, poison=share, select="random", perturbation="noise", norm="l2", epsilon=1.0
    )
    by_noise = [distance(noise(CLEAN, knows(OWN, 3, s)).samples, -learned.theta) for s in range(3)]
    by_teaching = []
    for s in range(3):
        taught = machine_teaching(model=settings, poison=share, goal="reversed")(CLEAN, knows(OWN, 3, s))
        assert int(taught.poisoned.sum()) <= 12
        moved = (taught.samples.x - CLEAN.x).norm(dim=1)
        assert float(moved.max()) <= 1 + 1e-9
        assert torch.equal(moved > 0, taught.poisoned)
        assert torch.equal(taught.samples.y, CLEAN.y)
        by_teaching.append(distance(taught.samples, -learned.theta))
    before = float((2 * learned.theta).norm())
    assert max(by_teaching) < min(by_noise)
    assert before - sum(by_teaching) / 3 > 2 * (before - sum(by_noise) / 3)


def test_a_target_of_ones_own_is_approached_and_effort_is_saved() -> None:
    target = torch.zeros(3, 4)
    target[0, 0] = 1.0
    settings, share = ConvexSettings(l2=0.05), DatasetPoisonSettings(poison_fraction=0.3)

    def run(effort: float) -> tuple[float, float]:
        attack = machine_teaching(target, model=settings, poison=share, effort=effort, step_size=0.1)
        found = attack(CLEAN, knows(OWN, 3)).samples
        theta = train_convex(settings, found.x, found.y, 3).theta
        return float((theta - target).norm()), float((found.x - CLEAN.x).norm())

    start = float((train_convex(settings, CLEAN.x, CLEAN.y, 3).theta - target).norm())
    near, much = run(0.0)
    less_near, less = run(0.05)
    assert near < less_near < start
    assert 0 < less < much


def test_harm_on_digits_is_greater_than_that_of_noise() -> None:
    settings, share = ConvexSettings(l2=0.005, exact_up_to=100), DatasetPoisonSettings(poison_fraction=0.2)
    attacks = {
        "noise": influence_selection(
            model=settings, poison=share, select="random", perturbation="noise", norm="l2", epsilon=2.0
        ),
        "taught": machine_teaching(model=settings, poison=share, epsilon=2.0, iterations=8),
    }
    found: dict[str, list[float]] = {"noise": [], "taught": []}
    for seed in range(3):
        clean, own, test = digit_roles(seed, 60, 100, 300, of=(3, 5, 8))
        for name, attack in attacks.items():
            poisoned = attack(clean, knows(own, 3, seed, 0.0, 1.0))
            assert int(poisoned.poisoned.sum()) == 12
            assert poisoned.samples.x.shape == clean.x.shape
            assert poisoned.samples.x.dtype == torch.float32
            assert float((poisoned.samples.x - clean.x).flatten(1).norm(dim=1).max()) <= 2 + 1e-5
            victim = LogisticRegression(C=1 / (0.005 * 60), max_iter=2000)
            found[name].append(error(victim, poisoned.samples, test))
    assert sum(found["taught"]) / 3 > sum(found["noise"]) / 3 + 5


def test_bad_settings_are_errors() -> None:
    with pytest.raises(AttackError, match=r"target_parameters: got \[3, 3\], wanted a tensor \[3, 4\]"):
        machine_teaching(torch.zeros(3, 3))(CLEAN, knows(OWN, 3))
    with pytest.raises(AttackError, match=r"target_parameters: got list, wanted a tensor \[3, 4\]"):
        machine_teaching([1.0])(CLEAN, knows(OWN, 3))  # type: ignore[arg-type]
    with pytest.raises(AttackError, match=r"poison_fraction: got 0\.01, which is no sample of 40"):
        machine_teaching(poison=DatasetPoisonSettings(poison_fraction=0.01))(CLEAN, knows(OWN, 3))
    with pytest.raises(SettingError, match="machine_teaching: goal: got 'worse'"):
        machine_teaching(goal="worse")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="machine_teaching: l2: got 0"):
        machine_teaching(model=ConvexSettings(l2=0.0))
