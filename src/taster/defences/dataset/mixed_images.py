"""Training on images that are changed anew in every epoch: mixed with others, cut, or noisy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from taster.core.batch import Batch
from taster.core.epochs import Epochs
from taster.core.fitting import Classifier
from taster.core.threat import countermeasure
from taster.defences.dataset.net_epochs import net_fit, train_by_epochs
from taster.defences.dataset.run_checks import check_images
from taster.defences.dataset_defence import RobustTraining, TrainingRun
from taster.utils.seeds import derived_seed, generator
from taster.utils.setting_types import NonNegative, PositiveCount, PositiveFloat
from taster.utils.settings import validate_settings

Change = Callable[[Batch, int, torch.Generator], Batch]
"""(samples, classes, generator) -> the samples of one epoch, with labels [n] or [n, classes]."""


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def mixup(*, alpha: PositiveFloat = 1.0) -> RobustTraining:
    """Trains on mixtures λ x + (1 − λ) x' of pairs of images, with labels mixed alike.

    Pairs and λ ~ Beta(α, α) are drawn anew in every epoch, for each image by itself, from the whole set; crops and
    flips of the training come after.

    Args:
        alpha: α of the Beta distribution.

    Raises (when called):
        DefenceError: unless samples are images [n, 1 or 3, h, w] within 0 to 1 and the training is of a net, or if a
            step comes to nothing.

    Source: Zhang, Cisse, Dauphin and Lopez-Paz 2018, which draws pairs within a batch, with one λ for it.
    """

    def change(samples: Batch, classes: int, draws: torch.Generator) -> Batch:
        partner, share = _pairs(samples, alpha, draws)
        x = share.view(-1, 1, 1, 1) * samples.x + (1 - share.view(-1, 1, 1, 1)) * samples.x[partner]
        return Batch(x.clamp(0, 1), _mixed_labels(samples.y, partner, share, classes))

    return _trained_by_epoch("mixup", change)


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def cutmix(*, alpha: PositiveFloat = 1.0) -> RobustTraining:
    """Trains on images with a rectangle of another image pasted in, with labels mixed by area.

    The rectangle has the image's proportions and a share 1 − λ of its area, λ ~ Beta(α, α), around a point drawn
    uniformly; what lies outside of the image is cut off, and the area that is left counts for the labels.

    Args:
        alpha: α of the Beta distribution.

    Raises (when called):
        DefenceError: see `mixup`.

    Source: Yun et al. 2019, which draws pairs within a batch, with one rectangle for it.
    """

    def change(samples: Batch, classes: int, draws: torch.Generator) -> Batch:
        partner, share = _pairs(samples, alpha, draws)
        height, width = samples.x.shape[-2:]
        side = (1 - share).sqrt()
        inside = _rectangles(samples.x, side * height, side * width, draws)
        x = torch.where(inside, samples.x[partner], samples.x)
        return Batch(x, _mixed_labels(samples.y, partner, 1 - inside.to(samples.x).mean((1, 2, 3)), classes))

    return _trained_by_epoch("cutmix", change)


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def cutout(*, length: PositiveCount = 16) -> RobustTraining:
    """Trains on images with a square of zeros around a point drawn uniformly, cut off at the border.

    Args:
        length: of the square's sides, in pixels.

    Raises (when called):
        DefenceError: see `mixup`.

    Source: DeVries and Taylor 2017.
    """

    def change(samples: Batch, classes: int, draws: torch.Generator) -> Batch:
        sides = torch.full((len(samples),), float(length), device=samples.x.device)
        inside = _rectangles(samples.x, sides, sides, draws)
        return Batch(samples.x.masked_fill(inside, 0), samples.y)

    return _trained_by_epoch("cutout", change)


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def gaussian_noise(*, sigma: NonNegative = 0.05) -> RobustTraining:
    """Trains on images with Gaussian noise, drawn anew in every epoch and clipped to 0 to 1.

    Args:
        sigma: standard deviation, in the units of the data.

    Raises (when called):
        DefenceError: see `mixup`.

    Source: common practice.
    """

    def change(samples: Batch, classes: int, draws: torch.Generator) -> Batch:
        noise = torch.randn(samples.x.shape, generator=draws).to(samples.x)
        return Batch((samples.x + sigma * noise).clamp(0, 1), samples.y)

    return _trained_by_epoch("gaussian_noise", change)


def _trained_by_epoch(name: str, change: Change) -> RobustTraining:
    def train(run: TrainingRun) -> tuple[Classifier, None]:
        samples = check_images(run, name)
        fit = net_fit(run, name, "that of a net; grey and jpeg take any training")
        draws, order = generator(run.seed, f"{name} images"), generator(run.seed, f"{name} order")
        epochs = Epochs(torch.ones(len(samples)), fit.settings.batch_size, order, fit.settings.subsample)
        seed = derived_seed(run.seed, f"{name} dropout")
        return train_by_epochs(fit, lambda: change(samples, run.classes, draws), epochs, name, seed=seed), None

    return RobustTraining(train)


def _pairs(samples: Batch, alpha: float, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """A partner for each sample, int64 [n], and the sample's own share λ, [n]."""
    partner = torch.randperm(len(samples), generator=draws)
    # torch's own Beta takes no generator, and a gamma variable does.
    first, second = (torch._standard_gamma(torch.full((len(samples),), alpha), generator=draws) for _ in range(2))
    share = first / (first + second).clamp_min(torch.finfo(first.dtype).tiny)
    return partner.to(samples.x.device), share.to(samples.x)


def _mixed_labels(y: Tensor, partner: Tensor, share: Tensor, classes: int) -> Tensor:
    own = one_hot(y, classes).to(share)
    return share[:, None] * own + (1 - share[:, None]) * own[partner]


def _rectangles(x: Tensor, heights: Tensor, widths: Tensor, draws: torch.Generator) -> Tensor:
    """Which pixels lie in a rectangle around a point drawn for each image, bool [n, 1, h, w]."""
    rows = _spans(x.shape[-2], heights, draws)
    columns = _spans(x.shape[-1], widths, draws)
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)


def _spans(size: int, lengths: Tensor, draws: torch.Generator) -> Tensor:
    lengths = lengths.floor()
    start = torch.randint(size, (len(lengths),), generator=draws).to(lengths) - (lengths / 2).floor()
    places = torch.arange(size, device=lengths.device)
    return (places >= start[:, None]) & (places < (start + lengths)[:, None])
