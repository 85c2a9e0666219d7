"""Defences of a training set: those that weigh its samples, and those that train in their own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from taster.core.batch import Batch
from taster.core.fitting import Classifier, Fit
from taster.errors import DefenceError


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """What a defence works with.

    Attributes:
        samples: the training set, perhaps poisoned: x [n, ...] and y int64 [n].
        trusted: samples that are known to be clean.
        fit: trains as it is done without a defence.
        classes: number of classes.
        seed: of whatever is drawn.
    """

    samples: Batch
    trusted: Batch
    fit: Fit
    classes: int
    seed: int


@dataclass(frozen=True)
class DatasetDefence:
    """Weighs the samples of a training set, before training as usual.

    Attributes:
        weigh: weights of the samples [n], at least 0; those of weight 0 are left out.
        check: given how many samples there are and how many trusted ones, raises DefenceError where they are too few
            whatever they are, so that it is known before any training. None: any number may do.
    """

    weigh: Callable[[TrainingRun], Tensor]
    check: Callable[[int, int], None] | None = None


@dataclass(frozen=True)
class RobustTraining:
    """Trains in its own way.

    Attributes:
        train: returns the classifier, and the weight that each sample had at the end [n], 0 where it was left out; None
            where samples are not told apart.
    """

    train: Callable[[TrainingRun], tuple[Classifier, Tensor | None]]


def check_weights(weights: Tensor, samples: int) -> Tensor:
    """Returns the weights.

    Raises:
        DefenceError: unless they are finite numbers of at least 0, one a sample, and one of them is above 0.
    """
    if not isinstance(weights, Tensor) or weights.shape != (samples,) or not weights.is_floating_point():
        got = f"{list(weights.shape)} of {weights.dtype}" if isinstance(weights, Tensor) else type(weights).__name__
        raise DefenceError(f"weights: got {got}, wanted floating point [{samples}], one for each sample")
    if not bool(weights.isfinite().all()) or bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise DefenceError(
            "weights: got NaN, infinity, a negative weight or 0 alone, wanted finite weights of at least 0"
        )
    return weights
