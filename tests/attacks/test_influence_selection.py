"""Samples that are chosen by the influence of their poisoning."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from tests.attacks.poison_problems import central_differences, digit_roles, error, gaussians, knows

from taster.attacks import ConvexSettings, DatasetPoisonSettings, influence_selection
from taster.attacks.dataset.influence_selection import Perturbation, most_harmful_content, most_harmful_labels
from taster.attacks.dataset.influences import LinearInfluences
from taster.derivatives.convex_losses import LOSSES, ConvexLoss
from taster.derivatives.convex_models import train_convex
from taster.errors import AttackError, SettingError
from taster.perturbations.pgd import LpBall

CLEAN, OWN = gaussians(90, 0, classes=3), gaussians(60, 1, classes=3)
SETTINGS = ConvexSettings(l2=0.02)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_influence_of_content_is_the_derivative_of_training_again(loss: ConvexLoss) -> None:
    settings = ConvexSettings(loss=loss, l2=0.02)
    learned = train_convex(settings, CLEAN.x, CLEAN.y, 3)
    along = learned.solve(learned.mean_loss_gradient(OWN.x, OWN.y))

    def after(x: torch.Tensor) -> float:
        return train_convex(settings, torch.cat([x, CLEAN.x[2:]]), CLEAN.y, 3).mean_loss(OWN.x, OWN.y)

    found = -learned.pull(CLEAN.x[:2], CLEAN.y[:2], along) / len(CLEAN)
    torch.testing.assert_close(central_differences(after, CLEAN.x[:2]), found, atol=1e-8, rtol=1e-4)
    # It is the derivative in x of the influence itself too.
    direct = central_differences(lambda x: float(learned.influence(x, CLEAN.y[:2], along).sum()), CLEAN.x[:2])
    torch.testing.assert_close(direct / len(CLEAN), found, atol=1e-8, rtol=1e-6)


def test_influence_of_flips_orders_them_as_training_again_does() -> None:
    learned = train_convex(SETTINGS, CLEAN.x, CLEAN.y, 3)
    along = learned.solve(learned.mean_loss_gradient(OWN.x, OWN.y))
    flipped = most_harmful_labels(LinearInfluences(learned, along).influence, CLEAN.x, CLEAN.y, 3)
    assert bool((flipped != CLEAN.y).all())
    predicted = learned.influence(CLEAN.x, flipped, along) - learned.influence(CLEAN.x, CLEAN.y, along)
    other = 3 - flipped - CLEAN.y
    assert bool(
        (predicted >= learned.influence(CLEAN.x, other, along) - learned.influence(CLEAN.x, CLEAN.y, along)).all()
    )
    before, actual = learned.mean_loss(OWN.x, OWN.y), []
    for i in range(len(CLEAN)):
        y = CLEAN.y.clone()
        y[i] = flipped[i]
        actual.append(learned.retrained(CLEAN.x, y).mean_loss(OWN.x, OWN.y) - before)
    assert spearmanr(predicted, actual).statistic > 0.95
    assert float((predicted / 90).mean()) == pytest.approx(sum(actual) / 90, rel=0.3)


def test_content_within_the_ball_raises_the_influence() -> None:
    learned = train_convex(SETTINGS, CLEAN.x, CLEAN.y, 3)
    along = learned.solve(learned.mean_loss_gradient(OWN.x, OWN.y))
    ball = LpBall("linf", 0.2, -4, 4)
    moved = most_harmful_content(LinearInfluences(learned, along).slope, CLEAN.x, CLEAN.y, ball, 5)
    assert float((moved - CLEAN.x).abs().max()) <= 0.2 + 1e-12
    gain = learned.influence(moved, CLEAN.y, along) - learned.influence(CLEAN.x, CLEAN.y, along)
    assert bool((gain > 0).all())


@pytest.mark.parametrize("perturbation", ["label_flip", "gradient"])
def test_chosen_samples_do_more_harm_than_random_ones(perturbation: Perturbation) -> None:
    harm: dict[Literal["random", "influence"], list[float]] = {"random": [], "influence": []}
    for seed in range(3):
        clean, own, test = digit_roles(seed, 90, 150, 290, of=(3, 5, 8))
        for select, found in harm.items():
            attack = influence_selection(
                model=ConvexSettings(l2=0.01, exact_up_to=100),
                poison=DatasetPoisonSettings(poison_fraction=0.1),
                select=select,
                perturbation=perturbation,
                epsilon=0.2,
                rounds=3,
            )
            poisoned = attack(clean, knows(own, 3, seed, 0.0, 1.0))
            assert int(poisoned.poisoned.sum()) == 9
            assert poisoned.samples.x.shape == clean.x.shape
            assert poisoned.samples.x.dtype == torch.float32
            if perturbation == "label_flip":
                assert torch.equal(poisoned.samples.x, clean.x)
            else:
                assert torch.equal(poisoned.samples.y, clean.y)
                assert float((poisoned.samples.x - clean.x).abs().max()) <= 0.2 + 1e-6
            found.append(error(LogisticRegression(C=1 / 0.9, max_iter=2000), poisoned.samples, test))
    assert sum(harm["influence"]) / 3 > sum(harm["random"]) / 3 + (2 if perturbation == "label_flip" else 1)


def test_rounds_share_the_samples_out_and_none_is_poisoned_twice() -> None:
    for rounds in (1, 3, 50):
        attack = influence_selection(
            poison=DatasetPoisonSettings(poison_fraction=0.1), select="random", rounds=rounds, damping=0.1
        )
        assert int(attack(CLEAN, knows(OWN, 3)).poisoned.sum()) == 9


def test_noise_lies_on_the_balls_boundary_and_chosen_noise_harms_more() -> None:
    losses = {}
    for select in ("random", "influence"):
        attack = influence_selection(
            model=SETTINGS,
            poison=DatasetPoisonSettings(poison_fraction=0.3),
            select=select,
            perturbation="noise",
            norm="l2",
            epsilon=0.5,
        )
        found = attack(CLEAN, knows(OWN, 3))
        moved = (found.samples.x - CLEAN.x).norm(dim=1)[found.poisoned]
        torch.testing.assert_close(moved, torch.full_like(moved, 0.5), atol=1e-9, rtol=0)
        losses[select] = train_convex(SETTINGS, found.samples.x, found.samples.y, 3).mean_loss(OWN.x, OWN.y)
    assert losses["influence"] > losses["random"]


def test_bad_settings_are_errors() -> None:
    with pytest.raises(AttackError, match=r"poison_fraction: got 0\.01, which is no sample of 90"):
        influence_selection(poison=DatasetPoisonSettings(poison_fraction=0.01))(CLEAN, knows(OWN, 3))
    one = CLEAN.select(CLEAN.y == 0)
    with pytest.raises(AttackError, match="got 1 class, wanted at least 2"):
        influence_selection()(one, knows(one, 1))
    with pytest.raises(SettingError, match="influence_selection: perturbation: got 'blur'"):
        influence_selection(perturbation="blur")  # type: ignore[arg-type]
