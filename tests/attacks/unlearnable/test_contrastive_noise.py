"""Noise against self-supervised training: it lowers the loss that it is made for, and the discriminant, and says what
it cannot be made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attacks.unlearnable.noise_problems import images, knowledge
from torch import Tensor, nn

from taster.attacks import PerturbationSettings, contrastive_poison, transferable_noise
from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.unlearnable.contrastive_noise import ContrastiveNets, ContrastiveSettings
from taster.attacks.unlearnable.set_noise import SetNoise
from taster.core.batch import Batch
from taster.core.training_settings import TrainingSettings
from taster.errors import AttackError, ModelError
from taster.offline import NetTraining
from taster.perturbations.pgd import LpBall
from taster.selfsup import ImageViews, PretrainingSettings, ViewSettings
from taster.stats.perturbation_measures import class_separability_discriminant

CLEAN = images(30)
WIDE = PerturbationSettings(epsilon=0.2)
NETS = PretrainingSettings(pretraining_batch=30, hidden=8, projection=4, pretraining_rate=1e-6)
VIEWS = ViewSettings(crop_area=0.8)


def turns(**changes: Any) -> ContrastiveSettings:
    return ContrastiveSettings(**{"rounds": 3, "train_steps": 1, "pgd_steps": 10, "step_size": 0.02, **changes})


@pytest.mark.parametrize("method", ["simclr", "moco", "simsiam"])
def test_the_noise_lowers_the_loss_of_the_net_that_it_follows(method: Any) -> None:
    known = knowledge()
    noise = SetNoise(CLEAN, torch.arange(30), LpBall("linf", 0.2))
    nets = ContrastiveNets(noise, known, turns(method=method), NETS, VIEWS, 3, "mine")
    model = nets._nets[0]._training.model.eval()

    def loss(x: Tensor) -> float:
        draws, views = torch.Generator().manual_seed(9), ImageViews(VIEWS)
        with torch.no_grad():
            return sum(float(model.loss(views(x, draws), views(x, draws))) for _ in range(20)) / 20

    nets.take_turns(noise, 3)
    assert loss(noise.perturbed.x) < loss(CLEAN.x) - 0.02


def test_transferable_noise_separates_the_classes() -> None:
    def csd(**settings: Any) -> float:
        noise = transferable_noise(perturbation=WIDE, pretraining=NETS, views=VIEWS, **settings).noise(
            CLEAN, knowledge()
        )
        return class_separability_discriminant(noise.values.flatten(1).numpy(), CLEAN.y.numpy())

    little = csd(contrastive=turns(rounds=1), csd_steps=1)
    much = csd(contrastive=turns(rounds=3, pgd_steps=0), csd_steps=20)
    assert much < 0.1 * little
    assert csd(contrastive=turns(rounds=3), csd_steps=20) < 0.5 * little


def test_sample_noise_begins_with_the_class_noise_that_comes_first() -> None:
    def made(**settings: Any) -> SetNoise:
        attack = contrastive_poison(perturbation=WIDE, pretraining=NETS, views=VIEWS, **settings)
        return attack.noise(inside, knowledge())

    inside = Batch(0.3 + 0.4 * CLEAN.x, CLEAN.y)  # where no perturbation meets the range
    found = made(contrastive=turns(rounds=1, pgd_steps=0), class_rounds=2)  # without a step of its own
    for label in range(3):
        own = found.values[CLEAN.y == label]
        torch.testing.assert_close(own, own[:1].expand_as(own))
    assert len(found.values) == 30
    assert not torch.equal(found.values[0], found.values[1])


def test_labels_do_not_count_for_the_noise_of_each_image() -> None:
    attack = contrastive_poison(perturbation=WIDE, contrastive=turns(), pretraining=NETS, views=VIEWS)
    other = Batch(CLEAN.x, CLEAN.y.roll(1))
    assert torch.equal(attack(CLEAN, knowledge()).samples.x, attack(other, knowledge()).samples.x)


def test_the_attackers_net_is_the_one_that_training_begins_with_and_stays_as_it_was() -> None:
    made: list[nn.Module] = []

    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        made.append(nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Linear(5, 3)))
        return made[-1]

    fit = NetTraining(make, TrainingSettings(batch_size=10))
    state = torch.get_rng_state()
    contrastive_poison(contrastive=turns(), pretraining=NETS)(CLEAN, knowledge(fit))
    assert torch.equal(state, torch.get_rng_state())
    assert len(made) == 1


def test_what_no_noise_can_be_made_of_is_told() -> None:
    def poison(samples: Batch, known: DatasetKnowledge | None = None, **settings: Any) -> None:
        contrastive_poison(contrastive=turns(), pretraining=NETS, **settings)(samples, known or knowledge())

    with pytest.raises(AttackError, match=r"contrastive_poison: got samples \[36\] from"):
        poison(Batch(CLEAN.x.flatten(1), CLEAN.y))
    with pytest.raises(AttackError, match="to 4, wanted images"):
        poison(Batch(CLEAN.x / CLEAN.x.max() * 4, CLEAN.y))
    with pytest.raises(AttackError, match="got 1 sample to perturb, wanted at least 2"):
        poison(CLEAN, perturbation=PerturbationSettings(poison_fraction=0.04))
    with pytest.raises(AttackError, match=r"class_rounds: got 2 with class_wise = true, wanted 0"):
        contrastive_poison(class_wise=True, class_rounds=2)
    flat = NetTraining(lambda seed: nn.Sequential(nn.Conv2d(1, 3, 6), nn.Flatten()), TrainingSettings())
    with pytest.raises(ModelError, match="without a linear layer"):
        poison(CLEAN, knowledge(flat))
    with pytest.raises(AttackError, match="transferable_noise: got samples of one class to perturb"):
        transferable_noise(contrastive=turns(), pretraining=NETS)(
            Batch(CLEAN.x, torch.zeros_like(CLEAN.y)), knowledge()
        )
