"""Nets that attackers train while they craft: as a victim is trained, with weights of their own for each seed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.attacks.surrogate import Surrogate, augmentation, net_fits, trained
from taster.core.batch import Batch
from taster.core.training_settings import TrainingSettings
from taster.errors import AttackError
from taster.offline import NetTraining
from taster.utils.seeds import generator

SAMPLES = Batch(torch.rand(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3)


def make_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


FIT = NetTraining(make_net, TrainingSettings(epochs=3, batch_size=6, learning_rate=0.1), seed=5)


def test_epoch_by_epoch_it_is_the_training_of_a_victim() -> None:
    surrogate = Surrogate(FIT, 20, 0, generator(5, "offline order 0"))
    surrogate.train(SAMPLES, 2)
    assert not surrogate.over
    surrogate.train(SAMPLES)
    assert surrogate.over
    victim, own = FIT(SAMPLES).params, surrogate.view.params
    assert all(torch.equal(own[name], victim[name]) for name in victim)


def test_another_seed_has_other_weights_and_torchs_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    first, second = (Surrogate(FIT, 20, seed, torch.Generator()).view.params for seed in (0, 1))
    assert torch.equal(torch.rand(2), wanted)
    assert not torch.equal(first["0.weight"], second["0.weight"])


def test_past_the_end_it_goes_on_with_the_last_rate() -> None:
    surrogate = Surrogate(FIT, 20, 0, torch.Generator().manual_seed(0))
    surrogate.train(SAMPLES, 4)
    before = surrogate.view.params
    surrogate.train(SAMPLES)
    assert surrogate.epochs == 5
    assert not torch.equal(surrogate.view.params["0.weight"], before["0.weight"])


def test_training_that_comes_to_nothing_is_told() -> None:
    wild = NetTraining(make_net, TrainingSettings(epochs=3, batch_size=6, learning_rate=1e30), seed=5)
    with pytest.raises(AttackError, match="came to nothing in epoch"):
        Surrogate(wild, 20, 0, torch.Generator()).train(SAMPLES, 3)


def test_estimators_have_no_gradients() -> None:
    def fit(samples: Batch, **given: object) -> object:
        return None

    known = DatasetKnowledge(3, SAMPLES, (FIT, fit), torch.Generator())  # type: ignore[arg-type]
    with pytest.raises(AttackError, match="gradient_matching: got the training of an estimator"):
        net_fits(known, "gradient_matching")
    assert net_fits(DatasetKnowledge(3, SAMPLES, (FIT,), torch.Generator()), "any") == (FIT,)


def test_a_single_step_has_the_first_learning_rate_and_is_no_epoch() -> None:
    surrogate = Surrogate(FIT, 20, 0, torch.Generator().manual_seed(0))
    batch = SAMPLES.select(slice(0, 6))
    before, slope = surrogate.view.params, surrogate.view.loss_gradient(batch.x, batch.y)
    surrogate.step(batch)
    assert surrogate.epochs == 0
    settings = FIT.settings
    for name, value in surrogate.view.params.items():
        decayed = slope[name] + settings.weight_decay * before[name]
        torch.testing.assert_close(value, before[name] - settings.learning_rate * decayed)


def test_a_single_step_that_comes_to_nothing_is_told() -> None:
    surrogate = Surrogate(FIT, 20, 0, torch.Generator())
    with pytest.raises(AttackError, match="came to nothing in epoch 1"):
        surrogate.step(Batch(SAMPLES.x[:6] * float("inf"), SAMPLES.y[:6]))


def test_augmentation_is_the_trainings_own() -> None:
    assert augmentation(FIT, torch.Generator()) is None
    flipping = NetTraining(make_net, TrainingSettings(flip=True), seed=5)
    transform = augmentation(flipping, torch.Generator().manual_seed(0))
    assert transform is not None
    x = torch.rand(50, 1, 2, 2, requires_grad=True)
    found = transform(x)
    mirrored = (found == x.flip(3)).flatten(1).all(1)
    assert 10 < int(mirrored.sum()) < 40
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert bool((slope == 1).all())


def test_part_of_a_training() -> None:
    whole = trained(FIT, SAMPLES, torch.Generator())
    assert all(torch.equal(whole.params[name], value) for name, value in FIT(SAMPLES).params.items())
    once = trained(FIT, SAMPLES, torch.Generator().manual_seed(0), 1)
    surrogate = Surrogate(FIT, 20, 0, torch.Generator().manual_seed(0))
    surrogate.train(SAMPLES)
    assert all(torch.equal(once.params[name], value) for name, value in surrogate.view.params.items())
