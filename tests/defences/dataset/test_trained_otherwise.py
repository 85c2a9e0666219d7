"""Countermeasures that train at the worst samples of a ball, or with the help of trusted samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.defences.dataset.conftest import LogisticFit, accuracy, digit_sets, run_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster import Batch, View
from taster.core.epochs import Epochs
from taster.core.training_settings import TrainingSettings
from taster.data.image_form import greyed
from taster.defences import adversarial_training, clean_share, early_stopping, grey, jpeg
from taster.defences.dataset.image_squeezing import compressed
from taster.defences.dataset.net_epochs import train_by_epochs
from taster.errors import BatchError, DefenceError, SettingError
from taster.models.mlp import mlp
from taster.offline import NetTraining


def make_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return mlp((1, 8, 8), 10, hidden=[32])


def fit(epochs: int = 15, learning_rate: float = 0.05) -> NetTraining:
    settings = TrainingSettings(epochs=epochs, batch_size=20, learning_rate=learning_rate)
    return NetTraining(make_net, settings, input_range=(0.0, 1.0))


def worst_loss(view: View, samples: Batch, rho: float) -> float:
    """The loss after one step of the sign of the gradient."""
    leaf = samples.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(view.forward(leaf), samples.y), leaf)
    moved = (samples.x + rho * slope.sign()).clamp(0, 1)
    return float(cross_entropy(view.outputs(moved), samples.y))


def trained(defence: Any, samples: Batch, trusted: Batch, **keywords: Any) -> View:
    found = defence.train(run_of(samples, trusted, fit(**keywords), seed=1))
    assert found[1] is None
    assert isinstance(found[0], View)
    return found[0]


def test_adversarial_training_learns_and_withstands_what_plain_training_does_not() -> None:
    train, trusted, test = digit_sets(300)
    plain = fit()(train)
    robust = trained(adversarial_training(rho=0.1, steps=3), train, trusted)
    again = trained(adversarial_training(rho=0.1, steps=3), train, trusted)
    assert torch.equal(robust.outputs(test.x), again.outputs(test.x))
    assert accuracy(robust, test) > 70
    assert worst_loss(robust, test, 0.1) < 0.9 * worst_loss(plain, test, 0.1)


class Seen(nn.Module):
    """A linear net that keeps what it is given while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.batches.append(x.detach().clone())
        out: Tensor = self.linear(x.flatten(1))
        return out


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_adversarial_training_trains_at_the_worst_samples_of_the_ball_of_a_linear_net(norm: Any) -> None:
    net = Seen()
    samples = Batch(torch.full((20, 1, 2, 2), 0.5), torch.arange(20) % 2)
    training = NetTraining(lambda seed: net, TrainingSettings(epochs=1, batch_size=20), input_range=(0.0, 1.0))
    first = net.linear.weight.detach().clone()
    adversarial_training(rho=0.1, norm=norm, steps=60, step_size=0.02).train(
        run_of(samples, samples, training, classes=2)
    )
    order = net.batches[-1]
    # Of a linear net of two classes the worst change is along the difference of their weights, away from the label.
    towards = first[1] - first[0]
    wanted = 0.1 * (towards.sign() if norm == "linf" else towards / towards.norm())
    changes = (order - 0.5).flatten(1)
    for change in changes:
        assert min(float((change - sign * wanted).abs().max()) for sign in (1, -1)) < 2e-2
    assert float((changes.abs().amax(1) if norm == "linf" else changes.norm(dim=1)).max()) <= 0.1 + 1e-6


def test_early_stopping_takes_the_first_of_the_best_epochs() -> None:
    train, _, test = digit_sets(100)

    def run(epochs: int, quality: Any = None) -> View:
        order = Epochs(torch.ones(len(train)), 20, torch.Generator().manual_seed(0))
        settings = TrainingSettings(epochs=epochs, batch_size=20, decay="none")
        training = NetTraining(make_net, settings, input_range=(0.0, 1.0))
        return train_by_epochs(training, lambda: train, order, "test", seed=0, quality=quality)

    marks = iter([1.0, 3.0, 2.0, 3.0])
    best = run(4, lambda view: next(marks))
    assert torch.equal(best.outputs(test.x), run(2).outputs(test.x))
    assert not torch.equal(best.outputs(test.x), run(4).outputs(test.x))


def test_early_stopping_looks_at_trusted_samples_alone() -> None:
    train, trusted, test = digit_sets(200)
    # Wrong labels for all that is trained on: the earlier, the less wrong.
    wrong = Batch(train.x, (train.y + 1) % 10)
    stopped = trained(early_stopping(), wrong, trusted, epochs=20)
    assert accuracy(stopped, test) >= accuracy(fit(20)(wrong), test)
    with pytest.raises(BatchError, match="early_stopping"):
        trained(early_stopping(), train, trusted.select(slice(19)))
    with pytest.raises(DefenceError, match="cannot be made one by one"):
        early_stopping().train(run_of(train, trusted, LogisticFit()))


class Kept:
    """A training that keeps its set."""

    def __init__(self) -> None:
        self.samples: Batch | None = None

    def __call__(self, samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> Any:
        self.samples = samples
        return self

    def outputs(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_a_clean_share_is_trained_on_beside_the_set_or_in_its_place() -> None:
    train, trusted, _ = digit_sets(70, 30)
    kept = Kept()
    clean_share().train(run_of(train, trusted, kept))
    assert kept.samples is not None
    assert torch.equal(kept.samples.x, torch.cat([train.x, trusted.x]))
    assert torch.equal(kept.samples.y, torch.cat([train.y, trusted.y]))
    clean_share(alone=True).train(run_of(train, trusted, kept))
    assert len(kept.samples) == 100
    assert torch.equal(kept.samples.x[:30], trusted.x)
    assert torch.equal(kept.samples.x[90:], trusted.x[:10])
    with pytest.raises(BatchError, match="clean_share"):
        clean_share(least=31).train(run_of(train, trusted, kept))


@pytest.mark.parametrize(
    ("defence", "change"),
    [(grey(predictions=True), greyed), (jpeg(quality=20, predictions=True), lambda x: compressed(x, 20))],
)
def test_images_to_be_predicted_are_squeezed_as_well_where_it_is_asked_for(defence: Any, change: Any) -> None:
    x = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    samples = Batch(x, torch.arange(10) % 2)
    classifier = defence.train(run_of(samples, samples, Kept(), classes=2))[0]
    assert torch.equal(classifier.outputs(x), change(x).flatten(1))
    plain = jpeg().train(run_of(samples, samples, Kept(), classes=2))[0]
    assert torch.equal(plain.outputs(x), x.flatten(1))


def test_settings_out_of_range() -> None:
    for make in (lambda: adversarial_training(rho=0), lambda: adversarial_training(steps=0)):
        with pytest.raises(SettingError):
            make()
