"""Nets that an attack trains while it crafts."""

from __future__ import annotations

import torch

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.core.batch import Batch
from taster.core.epochs import Epochs
from taster.core.fitting import NetFit
from taster.core.view import View
from taster.errors import AttackError


class Surrogate:
    """A net that is trained as a victim would be, epoch by epoch, on a set that changes in between.

    Args:
        fit: the training.
        samples: n, of every set that it is trained on.
        seed: of its first weights, where these are random.
        generator: of the order of the samples, and of augmentation.

    Attributes:
        fit: the training.
        epochs: that are over.
    """

    def __init__(self, fit: NetFit, samples: int, seed: int, generator: torch.Generator) -> None:
        self.fit = fit
        self.epochs = 0
        self._learner = fit.learner(seed)
        self._order = Epochs(torch.ones(samples), fit.settings.batch_size, generator, fit.settings.subsample)

    @property
    def over(self) -> bool:
        """Whether the victim's training would be over."""
        return self.epochs >= self.fit.settings.epochs

    @property
    def view(self) -> View:
        """Of the net as it is now, differentiable in samples and parameters."""
        return self._learner.view()

    def train(self, samples: Batch, epochs: int = 1) -> None:
        """Trains on; past the end of the victim's training with its last learning rate that is above 0.

        Args:
            samples: x [n, ...] and y int64 [n].
            epochs: how many.

        Raises:
            AttackError: if a step comes to no finite loss or gradient.
        """
        for _ in range(epochs):
            done = min(self.epochs, self.fit.settings.epochs - 1)
            for record in self.fit.train_epoch(self._learner, samples, self._order, done):
                if not record.verdict.committed:
                    raise AttackError(
                        f"the attacker's training came to nothing in epoch {self.epochs + 1}: {record.verdict.reason}; "
                        "try a smaller offline.learning_rate"
                    )
            self.epochs += 1


def net_fits(knowledge: DatasetKnowledge, name: str) -> tuple[NetFit, ...]:
    """The trainings that an attacker knows of, where all are of nets.

    Args:
        knowledge: of the attacker.
        name: of the attack.

    Raises:
        AttackError: for the training of an estimator.
    """
    found = tuple(fit for fit in knowledge.fits if isinstance(fit, NetFit))
    if len(found) < len(knowledge.fits):
        raise AttackError(
            f"{name}: got the training of an estimator, which has no gradients, wanted a net; offline.attacker_models "
            "may name one"
        )
    return found
