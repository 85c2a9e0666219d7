"""Victims that are trained side by side: each is what it would be alone."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import tiny_batch
from torch import nn

from taster.core.batch import Batch
from taster.core.training_settings import TrainingSettings
from taster.errors import ModelError
from taster.offline import NetTraining, train_victims

SETTINGS = TrainingSettings(epochs=6, batch_size=7, learning_rate=0.3, nesterov=True, decay="linear", subsample=0.9)
CLEAN = tiny_batch(30)


def make_net(seed: int = 0, *, bias: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3, bias=bias))


def poisoned(seed: int) -> Batch:
    """The clean set with three samples and two labels changed."""
    draws = torch.Generator().manual_seed(seed)
    x, y = CLEAN.x.clone(), CLEAN.y.clone()
    x[torch.randperm(30, generator=draws)[:3]] = torch.rand(3, 1, 6, 6, generator=draws)
    y[torch.randperm(30, generator=draws)[:2]] = seed % 3
    return Batch(x, y)


SETS = [CLEAN, *(poisoned(seed) for seed in range(4))]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_each_is_what_it_would_be_alone(bias: bool, smoothing: float) -> None:
    settings = TrainingSettings(
        **{
            name: getattr(SETTINGS, name) for name in ("epochs", "batch_size", "learning_rate", "nesterov", "subsample")
        },
        label_smoothing=smoothing,
    )
    training = NetTraining(lambda seed: make_net(seed, bias=bias), settings, "transfer", seed=4)
    together = train_victims(training, SETS)
    for view, samples in zip(together, SETS, strict=True):
        alone = training(samples)
        for name, value in alone.params.items():
            torch.testing.assert_close(view.params[name], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(view.outputs(CLEAN.x), alone.outputs(CLEAN.x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0].params["3.weight"], together[1].params["3.weight"], atol=1e-3)


def test_another_victim_changes_nothing() -> None:
    training = NetTraining(make_net, SETTINGS, "transfer", seed=4)
    with_one, with_another = (train_victims(training, [CLEAN, some])[0] for some in (poisoned(1), poisoned(2)))
    torch.testing.assert_close(with_one.params["3.weight"], with_another.params["3.weight"], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "training",
    [
        NetTraining(make_net, SETTINGS),
        NetTraining(make_net, TrainingSettings(flip=True), "transfer"),
        NetTraining(lambda seed: nn.Sequential(make_net(seed), nn.Tanh()), SETTINGS, "transfer"),
        NetTraining(make_net, SETTINGS, "transfer", input_range=(0.0, 0.1)),
    ],
)
def test_what_needs_the_whole_net_is_told(training: NetTraining) -> None:
    with pytest.raises(ModelError, match="got a training that needs the whole net"):
        train_victims(training, SETS)


def test_sets_that_do_not_go_together_are_told() -> None:
    training = NetTraining(make_net, SETTINGS, "transfer")
    with pytest.raises(ModelError, match=r"got sets of \[30, 29\] samples"):
        train_victims(training, [CLEAN, CLEAN.select(slice(0, 29))])
    with pytest.raises(ModelError, match=r"got sets of \[\] samples"):
        train_victims(training, [])


def test_a_training_that_comes_to_nothing_is_told() -> None:
    training = NetTraining(make_net, TrainingSettings(learning_rate=1e38), "transfer")
    with pytest.raises(ModelError, match="came to nothing"):
        train_victims(training, SETS)
