"""One row for every noise: within its budget, under the right labels, the same for the same seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.unlearnable.noise_problems import images, knowledge, sizes, training

from taster.attacks import DATASET_ATTACKS, PerturbationSettings
from taster.attacks.unlearnable.adversarial_noise import AdversarialSettings
from taster.attacks.unlearnable.alternating import AlternatingSettings
from taster.attacks.unlearnable.contrastive_noise import ContrastiveSettings
from taster.attacks.unlearnable.deep_confuse import ConfuseSettings
from taster.attacks.unlearnable.gradient_noise import GradientNoiseSettings
from taster.attacks.unlearnable.set_noise import NoiseAttack
from taster.attacks.unlearnable.unlearnable_clusters import ClusterSettings
from taster.errors import AttackError
from taster.selfsup import PretrainingSettings

CLEAN = images()
SHORT = {"alternating": AlternatingSettings(train_steps=2, pgd_steps=2, max_rounds=3)}
STEPS = {"adversarial": AdversarialSettings(pgd_steps=3)}
GRADIENTS = {"gradients": GradientNoiseSettings(pgd_steps=2, surrogate_epochs=2)}


def turns(method: Any) -> ContrastiveSettings:
    return ContrastiveSettings(method=method, rounds=2, train_steps=2, pgd_steps=2)


CONTRASTIVE = {"contrastive": turns("simclr"), "pretraining": PretrainingSettings(pretraining_batch=10, hidden=8)}

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "minimising": ("error_minimising_noise", SHORT),
    "minimising classes": ("error_minimising_noise", {**SHORT, "class_wise": True}),
    "maximising": ("error_maximising_noise", STEPS),
    "maximising untargeted": (
        "error_maximising_noise",
        {"adversarial": AdversarialSettings(pgd_steps=3, targeted=False)},
    ),
    "synthetic": ("synthetic_noise", {"patch": 2}),
    "universal": ("universal_noise", STEPS),
    "robust": ("robust_minimising_noise", {**SHORT, "adversary": 0.05, "adversary_steps": 2}),
    "alignment": ("gradient_alignment", GRADIENTS),
    "clog": ("tensor_clog", GRADIENTS),
    "tangent kernel": ("ntga", {"pgd_steps": 2, "block_size": 10}),
    "random classes": ("random_class_noise", {}),
    "contrastive": ("contrastive_poison", CONTRASTIVE),
    "contrastive moco": ("contrastive_poison", {**CONTRASTIVE, "contrastive": turns("moco"), "class_rounds": 1}),
    "contrastive classes": ("contrastive_poison", {**CONTRASTIVE, "contrastive": turns("simsiam"), "class_wise": True}),
    "transferable": ("transferable_noise", CONTRASTIVE),
    "confuse": ("deep_confuse", {"confuse": ConfuseSettings(trials=2, trial_steps=3, net_learning_rate=0.01)}),
    "confuse targeted": (
        "deep_confuse",
        {"confuse": ConfuseSettings(trials=1, trial_steps=3, net_learning_rate=0.01, targeted=True)},
    ),
    "clusters": ("unlearnable_clusters", {"cluster": ClusterSettings(clusters=3, passes=4, net_learning_rate=0.01)}),
}
OF_NETS = [row for row, (name, _) in ROWS.items() if name not in ("synthetic_noise", "random_class_noise", "ntga")]


def make(row: str, **perturbation: Any) -> NoiseAttack:
    name, settings = ROWS[row]
    attack = DATASET_ATTACKS[name](perturbation=PerturbationSettings(epsilon=0.2, **perturbation), **settings)
    assert isinstance(attack, NoiseAttack)
    return attack


@pytest.mark.parametrize("row", list(ROWS))
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_budget_labels_and_seed(row: str, norm: Any, share: float) -> None:
    attack = make(row, norm=norm, poison_fraction=share)
    before = CLEAN.x.clone()
    found = attack(CLEAN, knowledge())
    again = attack(CLEAN, knowledge())
    other = attack(CLEAN, knowledge(seed=1))
    assert torch.equal(before, CLEAN.x)
    assert torch.equal(found.samples.x, again.samples.x)
    draws = row != "tangent kernel" or share < 1  # that draws which samples it perturbs, and nothing else
    assert torch.equal(found.samples.x, other.samples.x) != draws
    assert torch.equal(found.samples.y, CLEAN.y)
    assert int(found.poisoned.sum()) == int(share * 30)
    reach = sizes(found.samples.x - CLEAN.x, norm)[found.poisoned]
    assert bool((reach <= 0.2 + 1e-6).all())
    assert float(reach.min()) > 0.02
    assert bool((found.samples.x >= 0).all())
    assert bool((found.samples.x <= 1).all())


@pytest.mark.parametrize("row", OF_NETS)
def test_several_nets_and_augmentation(row: str) -> None:
    name, settings = ROWS[row]
    if "alternating" in settings:
        settings = {
            **settings,
            "alternating": AlternatingSettings(train_steps=2, pgd_steps=2, max_rounds=2, augment=2),
        }
    fits = (training(crop=1, flip=True), training(epochs=2))
    attack = DATASET_ATTACKS[name](**settings)
    first, second = (attack(CLEAN, knowledge(*fits)).samples.x for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, attack(CLEAN, knowledge(fits[0])).samples.x)


@pytest.mark.parametrize("row", OF_NETS)
def test_estimators_are_refused(row: str) -> None:
    with pytest.raises(AttackError, match=f"{ROWS[row][0]}: got the training of an estimator"):
        make(row)(CLEAN, knowledge(lambda samples, **given: None))
