"""What a model trained on a perhaps poisoned set does, and what a defence found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from taster.core.batch import Batch
from taster.core.fitting import CertifiedClassifier, Classifier

_MOST = 1000
"""Samples of each kind that losses are measured on."""


def accuracy(model: Classifier, test: Batch) -> float:
    """Accuracy in %."""
    return 100 * float((model.outputs(test.x).argmax(1) == test.y).double().mean())


def recall_by_class(model: Classifier, test: Batch, classes: int) -> list[float | None]:
    """Of each class the share that is recognised, in %; None of a class without test samples."""
    right = model.outputs(test.x).argmax(1) == test.y
    found: list[float | None] = []
    for label in range(classes):
        own = right[test.y == label]
        found.append(100 * float(own.double().mean()) if len(own) else None)
    return found


def target_success(model: Classifier, target: Batch) -> float:
    """Of samples that a class is wanted for, the share that the model puts into it, in %."""
    return accuracy(model, target)


def certified_accuracy(model: CertifiedClassifier, test: Batch, budgets: Sequence[int]) -> dict[int, float]:
    """Accuracy in % that is left at the worst, whatever a number of poisoned samples does, by that number."""
    right = model.outputs(test.x).argmax(1) == test.y
    radius = model.radius(test.x).to(right.device)
    return {budget: 100 * float((right & (radius >= budget)).double().mean()) for budget in budgets}


def certified_budgets(model: CertifiedClassifier, test: Batch) -> list[int]:
    """Up to eight numbers of poisoned samples, from 0 to the largest that any prediction withstands."""
    most = int(model.radius(test.x).max())
    return sorted({round(most * i / 7) for i in range(8)})


@dataclass(frozen=True)
class Removal:
    """What a defence left out of a training set.

    Attributes:
        removed: samples of weight 0.
        precision: the share of them that was poisoned, in %; None where nothing was removed.
        recall: the share of the poisoned samples that was removed, in %; None where nothing was poisoned.
    """

    removed: int
    precision: float | None
    recall: float | None

    @classmethod
    def of(cls, weights: Tensor, poisoned: Tensor) -> Removal:
        """By weights [n] of a defence and what was poisoned, bool [n]."""
        out, bad = (weights == 0).cpu(), poisoned.cpu()
        both, removed, harmful = int((out & bad).sum()), int(out.sum()), int(bad.sum())
        return cls(removed, 100 * both / removed if removed else None, 100 * both / harmful if harmful else None)


def mean_loss(model: Classifier, samples: Batch, chosen: Tensor) -> float | None:
    """The mean cross-entropy of the chosen samples (bool [n]), or of a thousand of them, spread evenly; None where none
    is chosen or it is not finite."""
    places = chosen.nonzero().flatten()
    if not len(places):
        return None
    places = places[:: max(1, len(places) // _MOST)][:_MOST].to(samples.x.device)
    loss = float(cross_entropy(model.outputs(samples.x[places]), samples.y[places]))
    return loss if torch.isfinite(torch.tensor(loss)) else None
