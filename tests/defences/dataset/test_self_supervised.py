"""Self-supervised trainings of a training set: they learn more than random features have, and need no labels for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.defences.dataset.conftest import LogisticFit, accuracy, digit_sets, flipped, run_of
from torch import nn

from taster import Batch
from taster.core.training_settings import TrainingSettings
from taster.defences import moco, simclr, simsiam
from taster.defences.dataset.self_supervised import ProbeSettings
from taster.errors import BatchError, DefenceError, SettingError
from taster.models.small_cnn import small_cnn
from taster.offline import NetTraining
from taster.selfsup import PretrainingSettings, ViewSettings
from taster.selfsup.linear_probe import LinearProbe

ALL: dict[str, Any] = {"simclr": simclr, "moco": moco, "simsiam": simsiam}
VIEWS = ViewSettings(crop_area=0.5, mirror=False)


def make_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return small_cnn((1, 8, 8), 10, width=8)


def fit() -> NetTraining:
    return NetTraining(make_net, TrainingSettings(epochs=1), input_range=(0.0, 1.0))


def made(name: str, epochs: int = 2, **probe: Any) -> Any:
    settings = PretrainingSettings(pretraining_epochs=epochs, pretraining_batch=100, hidden=32, projection=16)
    return ALL[name](pretraining=settings, views=VIEWS, probe=ProbeSettings(probe_c=0.1, **probe))


def probe_of(defence: Any, samples: Batch, trusted: Batch, seed: int = 1) -> LinearProbe:
    found, weights = defence.train(run_of(samples, trusted, fit(), seed=seed))
    assert weights is None
    assert isinstance(found, LinearProbe)
    return found


@pytest.mark.parametrize("name", ALL)
def test_features_are_better_than_random_ones_and_the_seed_gives_the_same_bits(name: str) -> None:
    train, trusted, test = digit_sets(400)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = probe_of(made(name, 20), train, trusted)
    assert torch.equal(torch.get_rng_state(), before)
    random = probe_of(made(name, 0), train, trusted)
    assert accuracy(found, test) > accuracy(random, test) + 3
    short = [probe_of(made(name), train, trusted, seed).outputs(test.x) for seed in (1, 1, 2)]
    assert torch.equal(short[0], short[1])
    assert not torch.equal(short[0], short[2])


def test_labels_have_no_part_in_the_features_and_trusted_ones_may_train_the_classifier() -> None:
    train, trusted, test = digit_sets(200)
    wrong, _ = flipped(train, 0.9, 10)
    first, second = (probe_of(made("simclr"), samples, trusted) for samples in (train, wrong))
    torch.testing.assert_close(first.view.params["conv3.weight"], second.view.params["conv3.weight"])
    assert not torch.equal(first.weight, second.weight)
    helped = [probe_of(made("simclr", probe_labels="trusted"), samples, trusted) for samples in (train, wrong)]
    assert torch.equal(helped[0].outputs(test.x), helped[1].outputs(test.x))


def test_what_cannot_be_trained_on_is_told() -> None:
    train, trusted, _ = digit_sets(100)
    with pytest.raises(DefenceError, match="simclr: got samples"):
        made("simclr").train(run_of(replace(train, x=train.x.flatten(1)), trusted, fit()))
    with pytest.raises(DefenceError, match="moco: got pixels from 0 to 2"):
        made("moco").train(run_of(replace(train, x=2 * train.x), trusted, fit()))
    with pytest.raises(DefenceError, match="simsiam: got a training whose epochs"):
        made("simsiam").train(run_of(train, trusted, LogisticFit()))
    with pytest.raises(BatchError, match="trusted"):
        made("simclr", probe_labels="trusted", least=300).train(run_of(train, trusted, fit()))
    convolution = NetTraining(
        lambda seed: nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), TrainingSettings(), input_range=(0.0, 1.0)
    )
    with pytest.raises(DefenceError, match="simclr: got a model without a linear layer"):
        made("simclr").train(run_of(train, trusted, convolution))
    frozen = NetTraining(make_net, TrainingSettings(), "transfer", input_range=(0.0, 1.0))
    with pytest.raises(DefenceError, match="simclr: got a net whose features are frozen"):
        made("simclr").train(run_of(train, trusted, frozen))
    wild = PretrainingSettings(pretraining_epochs=30, pretraining_batch=10, pretraining_rate=1e30)
    with pytest.raises(DefenceError, match="simsiam: the self-supervised training came to a loss of"):
        simsiam(pretraining=wild).train(run_of(train, trusted, fit()))
    with pytest.raises(SettingError, match="pretraining_batch"):
        simclr(pretraining=PretrainingSettings(pretraining_batch=1))
