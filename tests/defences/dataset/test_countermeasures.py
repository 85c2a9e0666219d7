"""Countermeasures to protected images: what is trained on, and that it is trained."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.defences.dataset.conftest import LogisticFit, accuracy, digit_sets, run_of
from torch import Tensor, nn

from taster import Batch
from taster.core.backward import online_gradient
from taster.core.epochs import Epochs
from taster.core.learner import Learner
from taster.core.step import GradientFn
from taster.core.step_record import StepRecord
from taster.core.training_settings import TrainingSettings
from taster.data.image_form import greyed
from taster.defences import RobustTraining, cutmix, cutout, gaussian_noise, grey, jpeg, mixup
from taster.defences.dataset.image_squeezing import compressed
from taster.errors import DefenceError, SettingError
from taster.models.mlp import mlp
from taster.offline import NetTraining


class Recorded(NetTraining):
    """Keeps the samples of each epoch."""

    def train_epoch(
        self,
        learner: Learner,
        samples: Batch,
        order: Epochs,
        done: int,
        *,
        gradient: GradientFn[Batch] = online_gradient,
    ) -> list[StepRecord]:
        self.__dict__.setdefault("seen", []).append(samples)
        return super().train_epoch(learner, samples, order, done, gradient=gradient)


def make_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return mlp((1, 8, 8), 10, hidden=[32])


def fit(epochs: int = 2, learning_rate: float = 0.05) -> Recorded:
    return Recorded(make_net, TrainingSettings(epochs=epochs, batch_size=20, learning_rate=learning_rate))


def seen(defence: RobustTraining, samples: Batch, seed: int = 0) -> list[Batch]:
    training = fit()
    defence.train(run_of(samples, samples, training, seed=seed))
    found: list[Batch] = training.__dict__["seen"]
    return found


BY_EPOCH: dict[str, Any] = {"mixup": mixup, "cutmix": cutmix, "cutout": cutout, "gaussian_noise": gaussian_noise}


@pytest.mark.parametrize("name", BY_EPOCH)
def test_a_net_learns_and_the_same_seed_gives_the_same_bits(name: str) -> None:
    train, trusted, test = digit_sets(300)
    made = BY_EPOCH[name](length=2) if name == "cutout" else BY_EPOCH[name]()
    before = train.x.clone()
    views = []
    for _ in range(2):
        classifier, weights = made.train(run_of(train, trusted, fit(25), seed=1))
        assert weights is None
        views.append(classifier)
    assert accuracy(views[0], test) > 70
    assert torch.equal(views[0].outputs(test.x), views[1].outputs(test.x))
    assert torch.equal(train.x, before)


@pytest.mark.parametrize("name", BY_EPOCH)
def test_each_epoch_and_each_seed_has_changes_of_its_own(name: str) -> None:
    train, _, _ = digit_sets(60)
    made = BY_EPOCH[name](length=3) if name == "cutout" else BY_EPOCH[name]()
    first, second = seen(made, train)
    other = seen(made, train, seed=1)[0]
    assert not torch.equal(first.x, second.x)
    assert not torch.equal(first.x, other.x)
    assert float(first.x.min()) >= 0
    assert float(first.x.max()) <= 1


def flat_images(values: Tensor) -> Batch:
    """Images of one value each, and labels by turns of 0 and 1."""
    return Batch(values.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous(), torch.arange(len(values)) % 2)


@pytest.mark.parametrize("defence", [mixup(), cutmix()])
def test_labels_are_mixed_in_the_share_of_the_pixels(defence: RobustTraining) -> None:
    values = (torch.arange(40) % 2).float()  # the value of an image is its label, so that its mean is the label's share
    for epoch in seen(defence, flat_images(values)):
        assert torch.allclose(epoch.y[:, 1], epoch.x.mean((1, 2, 3)), atol=1e-5)
        assert torch.allclose(epoch.y.sum(1), torch.ones(40))
        mixed = (epoch.y[:, 1] > 0.01) & (epoch.y[:, 1] < 0.99)
        assert bool(mixed.any())


def test_cutout_leaves_all_but_one_rectangle() -> None:
    for epoch in seen(cutout(length=3), flat_images(torch.ones(40))):
        gone = epoch.x[:, 0] == 0
        rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
        assert torch.equal(gone.sum((1, 2)), rows * columns)
        assert int(rows.max()) == int(columns.max()) == 3
        assert int(rows.min()) >= 1


def test_noise_has_the_deviation_that_was_asked_for() -> None:
    epoch = seen(gaussian_noise(sigma=0.05), flat_images(torch.full((200,), 0.5)))[0]
    assert float((epoch.x - 0.5).std()) == pytest.approx(0.05, rel=0.05)


def test_grey_is_the_luma_of_pillow() -> None:
    pixels = torch.randint(256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    found = greyed(pixels / 255)
    for image, one in zip(pixels, found, strict=True):
        wanted = Image.fromarray(image.permute(1, 2, 0).to(torch.uint8).numpy()).convert("L")
        assert np.abs(one.numpy() * 255 - np.asarray(wanted)).max() <= 1
    assert torch.equal(greyed(found[:, :1]), found[:, :1])


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_pillow_and_less_is_left_at_a_lower_quality(channels: int) -> None:
    x = torch.rand(3, channels, 16, 16, generator=torch.Generator().manual_seed(1))
    file = io.BytesIO()
    pixels = (x[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=10)
    wanted = np.asarray(Image.open(file)).reshape(16, 16, channels)
    assert torch.equal((compressed(x, 10)[0] * 255).round().permute(1, 2, 0), torch.tensor(wanted).float())
    assert float((compressed(x, 10) - x).abs().mean()) > float((compressed(x, 90) - x).abs().mean())


def test_what_it_cannot_work_with_is_refused() -> None:
    train, _, _ = digit_sets(60)
    vectors, bright = Batch(train.x.flatten(1), train.y), Batch(train.x * 2, train.y)
    for defence in (grey(), jpeg(), mixup()):
        with pytest.raises(DefenceError, match=r"wanted images \[1 or 3, h, w\]"):
            defence.train(run_of(vectors, vectors, fit()))
        with pytest.raises(DefenceError, match="wanted 0 to 1"):
            defence.train(run_of(bright, bright, fit()))
    with pytest.raises(DefenceError, match="wanted that of a net"):
        mixup().train(run_of(train, train, LogisticFit()))
    with pytest.raises(DefenceError, match="came to nothing in epoch"):
        mixup().train(run_of(train, train, fit(20, learning_rate=1e20)))
    with pytest.raises(SettingError):
        jpeg(quality=0)
