"""How every base model of an ensemble is trained: the settings, and what each model's own seed decides."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.utils.seeds import derived_seed, generator
from taster.utils.setting_types import NonNegative, PositiveCount, PositiveFloat
from taster.utils.settings import settings_group


@settings_group
class SGDSettings:
    """Stochastic gradient descent with momentum, as `torch.optim.SGD` makes it.

    Attributes:
        epochs: over each model's own samples.
        batch_size: samples in a step; the last of an epoch may have fewer.
        learning_rate: of the first epoch.
        schedule: "cosine" lowers the learning rate from epoch to epoch, to nearly 0; "constant" leaves it.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: added to the gradient, times the weights.
    """

    epochs: PositiveCount = 30
    batch_size: PositiveCount = 16
    learning_rate: PositiveFloat = 0.05
    schedule: Literal["constant", "cosine"] = "cosine"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 5e-4

    def learning_rate_of(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


def initial_seed(seed: int, model: int) -> int:
    """The seed of a base model's first weights: of its number alone, so that no other model's samples matter."""
    return derived_seed(seed, f"weights of base model {model}")


class SampleOrder:
    """The order in which a base model sees its samples, drawn anew for each epoch: of its number and their count alone.

    Args:
        seed: of the ensemble.
        model: number of the base model.
        samples: how many it has.
    """

    def __init__(self, seed: int, model: int, samples: int) -> None:
        self._generator = generator(seed, f"order of base model {model}")
        self._samples = samples

    def draw(self) -> Tensor:
        """Positions among the model's samples, int64 [n_i]."""
        return torch.randperm(self._samples, generator=self._generator)
