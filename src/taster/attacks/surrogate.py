"""Nets that an attack trains while it crafts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.core.batch import Batch
from taster.core.epochs import Epochs
from taster.core.fitting import NetFit
from taster.core.step_record import StepRecord
from taster.core.types import Tensors
from taster.core.view import View
from taster.data import Augment
from taster.derivatives import LossFn
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
            self._check(self.fit.train_epoch(self._learner, samples, self._order, done))
            self.epochs += 1

    def step(self, batch: Batch) -> None:
        """One step at the training's first learning rate, which counts as no epoch.

        Args:
            batch: at most a batch of the training's, x [b, ...] and y int64 [b].

        Raises:
            AttackError: if it comes to no finite loss or gradient.
        """
        order = Epochs(torch.ones(len(batch)), len(batch), self._order.generator)
        self._check(self.fit.train_epoch(self._learner, batch, order, 0))

    def _check(self, records: list[StepRecord]) -> None:
        refused = [record.verdict for record in records if not record.verdict.committed]
        if refused:
            raise AttackError(
                f"the attacker's training came to nothing in epoch {self.epochs + 1}: {refused[0].reason}; try a "
                "smaller offline.learning_rate"
            )


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


def augmentation(fit: NetFit, generator: torch.Generator) -> Callable[[Tensor], Tensor] | None:
    """A training's random crops and flips, differentiable in the images [n, c, h, w]; None where it makes none.

    Args:
        fit: the training.
        generator: of the augmentation.
    """
    crop, flip = fit.settings.crop, fit.settings.flip
    if not crop and not flip:
        return None
    augment = Augment(crop, flip)
    return lambda x: augment(x, generator)


def trained(fit: NetFit, samples: Batch, generator: torch.Generator, epochs: int | None = None) -> View:
    """A net after a training, or after some of its epochs.

    Args:
        fit: the training.
        samples: x [n, ...] and y int64 [n].
        generator: of the order of the samples and of augmentation, where `epochs` are given.
        epochs: how many. None: the training as a whole.

    Raises:
        AttackError: see `Surrogate.train`.
    """
    if epochs is None:
        return fit(samples)
    surrogate = Surrogate(fit, len(samples), 0, generator)
    surrogate.train(samples, epochs)
    return surrogate.view


def train_nets(
    count: int, samples: Batch, knowledge: DatasetKnowledge, name: str, *, first: int = 0
) -> tuple[View, ...]:
    """Trains nets as each training that an attacker knows of does, from other weights and in another order where these
    are random.

    Args:
        count: for each training.
        samples: x [n, ...] and y int64 [n].
        knowledge: of the attacker. Its generator draws the order of all nets but those of seed 0.
        name: of the attack.
        first: seed of the first net of each training.

    Raises:
        AttackError: for the training of an estimator, and one that comes to no finite loss.
    """
    views = []
    for fit in net_fits(knowledge, name):
        for seed in range(first, first + count):
            if seed == 0:
                views.append(fit(samples))
                continue
            surrogate = Surrogate(fit, len(samples), seed, knowledge.generator)
            surrogate.train(samples, fit.settings.epochs)
            views.append(surrogate.view)
    return tuple(views)


def loss_of(view: View) -> LossFn:
    """The training's loss, with normalisation in eval mode, as a function of parameters, samples and labels."""

    def loss(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return view.loss(x, y, params=params)

    return loss
