"""What each noise does, on a problem that a small net learns in moments."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.attacks.unlearnable.noise_problems import images, knowledge, training
from torch.nn.functional import cross_entropy

from taster.attacks import (
    PerturbationSettings,
    error_maximising_noise,
    error_minimising_noise,
    synthetic_noise,
    transferable_noise,
    universal_noise,
)
from taster.attacks.unlearnable.adversarial_noise import AdversarialSettings
from taster.attacks.unlearnable.alternating import AlternatingSettings, alternate
from taster.attacks.unlearnable.contrastive_noise import ContrastiveSettings
from taster.attacks.unlearnable.set_noise import SetNoise
from taster.core.batch import Batch
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall
from taster.perturbations.sample_gradient import cross_entropy_gradient, error_maximising_gradient

CLEAN = images(60)
WIDE = PerturbationSettings(epsilon=0.3)


def test_alternation_ends_when_the_nets_have_no_error_and_lowers_the_loss() -> None:
    known = knowledge(training(epochs=30))
    noise = SetNoise(CLEAN, torch.arange(60), LpBall("linf", 0.3))
    settings = AlternatingSettings(train_steps=3, pgd_steps=5, max_rounds=200)
    (net,) = alternate(noise, known, settings, "mine")
    found = noise.perturbed
    assert net.view.accuracy(found.x, found.y) >= 99
    with_noise = float(cross_entropy(net.view.outputs(found.x), CLEAN.y))
    assert with_noise < 0.5 * float(cross_entropy(net.view.outputs(CLEAN.x), CLEAN.y))


def test_rounds_are_counted() -> None:
    noise = SetNoise(CLEAN, torch.arange(60), LpBall("linf", 1.0))
    settings = AlternatingSettings(train_steps=1, pgd_steps=1, step_size=0.01, stop_error=0.0, max_rounds=2)
    alternate(noise, knowledge(training(learning_rate=1e-6)), settings, "mine")
    assert float(noise.values.abs().max()) == pytest.approx(0.02)


def test_one_round_is_training_and_then_pgd_on_the_net() -> None:
    noise = SetNoise(CLEAN, torch.arange(60), LpBall("linf", 0.3))
    settings = AlternatingSettings(train_steps=4, pgd_steps=1, step_size=0.05, max_rounds=1)
    (net,) = alternate(noise, knowledge(), settings, "mine")
    slope = cross_entropy_gradient(net.view, CLEAN.y)(CLEAN.x)
    torch.testing.assert_close(noise.perturbed.x, LpBall("linf", 0.3).step(CLEAN.x, -slope, 0.05, CLEAN.x))


def test_training_on_error_minimising_noise_teaches_little() -> None:
    clean, poisoned = [], []
    test = images(300, seed=7)
    for seed in range(3):
        known = knowledge(training(epochs=10), seed=seed)
        attack = error_minimising_noise(perturbation=WIDE, class_wise=True)
        victim = training(epochs=10)
        clean.append(victim(CLEAN, seed=seed).accuracy(test.x, test.y))
        poisoned.append(victim(attack(CLEAN, known).samples, seed=seed).accuracy(test.x, test.y))
    assert min(clean) > 90
    assert sum(poisoned) / 3 < 80


@pytest.mark.parametrize("targeted", [False, True])
def test_error_maximising_noise_turns_the_net(targeted: bool) -> None:
    known = knowledge()
    settings = AdversarialSettings(targeted=targeted, pgd_steps=40, label_shift=2)
    found = error_maximising_noise(perturbation=WIDE, adversarial=settings)(CLEAN, known).samples
    predicted = known.fit(CLEAN).outputs(found.x).argmax(1)
    if targeted:
        assert bool((predicted == (CLEAN.y + 2) % 3).all())
    else:
        assert not bool((predicted == CLEAN.y).any())


def test_universal_noise_turns_the_net_on_new_images_of_a_class_too() -> None:
    known = knowledge()
    noise = universal_noise(perturbation=WIDE).noise(CLEAN, known)
    new = images(30, seed=11)
    view = known.fit(CLEAN)
    assert float((view.outputs(new.x).argmax(1) == new.y).float().mean()) > 0.9
    turned = view.outputs(noise.apply(new.x, new.y)).argmax(1)
    assert float((turned == (new.y + 1) % 3).float().mean()) > 0.9


def test_a_shift_onto_itself_is_refused() -> None:
    settings = AdversarialSettings(label_shift=3)
    with pytest.raises(AttackError, match="label_shift: got 3 with a model of 3 classes"):
        error_maximising_noise(adversarial=settings)(CLEAN, knowledge())


@pytest.mark.parametrize("shift", [None, 1])
def test_gradient_through_augmentation_against_differences(shift: int | None) -> None:
    view = training()(images())
    y = torch.tensor([0, 1])
    x = images(2, seed=3).x

    def objective(at: torch.Tensor) -> float:
        logits = view.forward(at.flip(3))
        loss = cross_entropy(logits, y if shift is None else (y + shift) % 3, reduction="sum")
        return float(loss if shift is None else -loss)

    found = error_maximising_gradient(view, y, shift, lambda at: at.flip(3))(x)
    for place in [(0, 0, 1, 2), (1, 0, 5, 0)]:
        nudge = torch.zeros_like(x)
        nudge[place] = 1e-2
        slope = (objective(x + nudge) - objective(x - nudge)) / 2e-2
        assert float(found[place]) == pytest.approx(slope, rel=0.05, abs=1e-4)


def test_synthetic_noise_is_flat_in_each_patch_and_divided_by_a_linear_rule() -> None:
    big = Batch(torch.full((90, 2, 7, 5), 0.5), torch.arange(90) % 3)
    noise = synthetic_noise(perturbation=WIDE, patch=3).noise(big, knowledge())
    values = noise.values
    assert values.shape == (90, 2, 7, 5)
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        for columns in (slice(0, 3), slice(3, 5)):
            patch = values[:, :, rows, columns].flatten(2)
            assert bool((patch == patch[:, :, :1]).all())
    torch.testing.assert_close(values.flatten(1).abs().amax(1), torch.full((90,), 0.3))
    flat = torch.cat([values.flatten(1).double(), torch.ones(90, 1, dtype=torch.float64)], 1)
    wanted = torch.eye(3, dtype=torch.float64)[big.y]
    weights = torch.linalg.lstsq(flat, wanted, driver="gelsd").solution
    assert float(((flat @ weights).argmax(1) == big.y).float().mean()) == 1.0


def test_synthetic_noise_in_l2_has_the_length_of_its_budget() -> None:
    perturbation = PerturbationSettings(norm="l2", epsilon=0.7)
    noise = synthetic_noise(perturbation=perturbation, patch=2).noise(CLEAN, knowledge())
    torch.testing.assert_close(noise.values.flatten(1).norm(dim=1), torch.full((60,), 0.7))


def test_what_synthetic_noise_refuses() -> None:
    with pytest.raises(AttackError, match=r"got 3 classes and 1 patches, which have 2 patterns"):
        synthetic_noise(patch=6)(CLEAN, knowledge())
    flat = Batch(CLEAN.x.flatten(1), CLEAN.y)
    with pytest.raises(AttackError, match=r"got samples \[36\], wanted images"):
        synthetic_noise()(flat, knowledge())


def test_the_guides_code_puts_noise_on_new_images(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "unlearnable.md").read_text()
    moves, code = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    new = images(5, seed=20)
    names = {"images": CLEAN, "knowledge": knowledge(), "x_new": new.x, "y_new": new.y}
    exec(code, names)
    reach = (names["protected"] - new.x).abs().amax()  # type: ignore[operator]
    assert float(reach) == pytest.approx(0.2, abs=1e-6)
    short = ContrastiveSettings(rounds=1, train_steps=1)
    monkeypatch.setattr("taster.attacks.transferable_noise", partial(transferable_noise, contrastive=short))
    names |= {
        "others": images(40, seed=8),
        "generator": torch.Generator().manual_seed(0),
    }
    exec(moves, names)
    moved: Any = names["moved"]
    assert 0.02 < float((moved.x - CLEAN.x).abs().amax()) <= 8 / 255 + 1e-6
    assert names["carried"].shape == (40, 1, 6, 6)  # type: ignore[attr-defined]
