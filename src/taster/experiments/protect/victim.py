"""The net that stands for a scraper's: small, so that it is trained within seconds."""

from __future__ import annotations

import torch
from torch import nn

from taster.core.training_settings import TrainingSettings
from taster.models import small_cnn
from taster.offline import NetTraining
from taster.utils.seeds import derived_seed

_STEPS_AN_EPOCH = 10
_SMALLEST_BATCH = 16


def small_training(shape: tuple[int, int, int], classes: int, samples: int, epochs: int, seed: int) -> NetTraining:
    """The training of a small convolutional net.

    Args:
        shape: channels, height and width of the images.
        classes: how many.
        samples: of the set that it is meant for: few are trained on in smaller batches, so that there are steps enough.
        epochs: passes over the set.
        seed: of the first weights, and of the order.
    """

    def make_model(more: int) -> nn.Module:
        torch.manual_seed(derived_seed(seed, f"weights {more}"))
        return small_cnn(shape, classes, width=8, grid=4)

    batch = max(_SMALLEST_BATCH, min(128, samples // _STEPS_AN_EPOCH))
    return NetTraining(make_model, TrainingSettings(epochs=epochs, batch_size=batch), seed=seed, input_range=(0.0, 1.0))
