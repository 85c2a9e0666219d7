"""Linear base models by ridge regression: each in closed form, so that a thousand take seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from taster.defences.training.training_set import as_input
from taster.utils.setting_types import PositiveFloat
from taster.utils.settings import validate_settings


@validate_settings
def ridge_training(*, penalty: PositiveFloat = 1.0) -> RidgeTraining:
    """Training of all base models of an ensemble by ridge regression of one-hot labels on flat samples.

        W, b = argmin Σ_i ‖W x_i + b − e(y_i)‖² + λ ‖W‖²

    What a model sees should be worth a linear model: features that are fixed beforehand, and computed of each sample by
    itself. A model depends, bit for bit, on its own samples alone, as each is solved for by itself; the seed changes
    nothing. One without samples gives 0 to every class.

    Args:
        penalty: λ, in the units of the squared norm of samples.
    """
    return RidgeTraining(penalty)


@dataclass(frozen=True)
class RidgeTraining:
    """See `ridge_training`."""

    penalty: float

    def __call__(self, x: Tensor, y: Tensor, members: Sequence[Tensor], *, classes: int, seed: int) -> LinearModels:
        """Solves for a model on each of several parts of a data set; see
        `taster.defences.training.TrainBaseModels`."""
        del seed  # nothing is drawn
        found = [self._solved(as_input(x[part]).flatten(1), y[part], classes) for part in members]
        return LinearModels(torch.stack([weight for weight, _ in found]), torch.stack([level for _, level in found]))

    def _solved(self, x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """W [K, d] and b [K], by the equations of the samples, of which there are fewer than values in one."""
        if not len(x):
            return x.new_zeros(classes, x.shape[1]), x.new_zeros(classes)
        wanted = one_hot(y, classes).to(x)
        middle, level = x.mean(0), wanted.mean(0)
        inner = x - middle
        gram = inner @ inner.T
        gram.diagonal().add_(self.penalty)
        weight = torch.linalg.solve(gram, wanted - level).T @ inner
        return weight, level - weight @ middle


class LinearModels:
    """Linear base models, read in one product.

    Attributes:
        weight: [m, K, d].
        level: [m, K].
    """

    def __init__(self, weight: Tensor, level: Tensor) -> None:
        self.weight = weight
        self.level = level

    def __len__(self) -> int:
        return len(self.weight)

    def scores(self, x: Tensor) -> Tensor:
        """W x + b of each model, [n, m, K], for samples [n, ...]."""
        flat = as_input(x).flatten(1)
        return (flat @ self.weight.flatten(0, 1).T).view(len(x), *self.level.shape) + self.level
