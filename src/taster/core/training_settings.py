"""How a model is trained on a data set: the settings."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from taster.utils.setting_types import NonNegative, PositiveCount, PositiveFloat
from taster.utils.settings import settings_group

Decay = Literal["none", "cosine", "linear"]
"""How the learning rate falls from its first value to 0 over the steps of a training."""


@settings_group
class TrainingSettings:
    """Training on a data set by stochastic gradient descent.

    Attributes:
        epochs: passes over the set.
        batch_size: of a step, at most: an epoch is divided into batches of nearly equal size.
        learning_rate: of the first step.
        decay: how the learning rate falls.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: added to the gradient, times the weights; regularisation in the sense of Barreno et al. 2006.
        label_smoothing: share of each label that is spread over all classes; likewise.
        subsample: share of the samples that is drawn at random and trained on, the same in every epoch; randomisation
            in the sense of Barreno et al. 2006.
        crop: pixels of padding before a random crop of each image. 0: none.
        flip: whether each image is mirrored with probability 1/2.
    """

    epochs: PositiveCount = 20
    batch_size: PositiveCount = 128
    learning_rate: PositiveFloat = 0.05
    decay: Decay = "cosine"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    subsample: Annotated[float, Field(gt=0, le=1)] = 1.0
    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate after a part of the training's steps, from 0 to 1."""
        if self.decay == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        return self.learning_rate * (1 - progress if self.decay == "linear" else 1)
