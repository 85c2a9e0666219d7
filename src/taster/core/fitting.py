"""Training as attacks and defences on data sets see it: a set of samples goes in, a classifier comes out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from taster.core.backward import online_gradient
from taster.core.batch import Batch
from taster.core.epochs import Epochs
from taster.core.learner import Learner
from taster.core.losses import AnyLoss
from taster.core.step import GradientFn
from taster.core.step_record import StepRecord
from taster.core.training_settings import TrainingSettings
from taster.core.view import View


class Classifier(Protocol):
    """A trained model. A `View` is one."""

    def outputs(self, x: Tensor) -> Tensor:
        """Scores of samples [n, ...], one for each class, [n, classes]; the greatest is the prediction. No graph is
        kept."""


@runtime_checkable
class CertifiedClassifier(Classifier, Protocol):
    """A classifier that knows how much poison each of its predictions withstands."""

    def radius(self, x: Tensor) -> Tensor:
        """The number of poisoned samples that the prediction of each sample withstands, int64 [n]."""


class Fit(Protocol):
    """Trains a classifier on a set of samples, from the same start each time: the same samples, weights and seed give
    the same classifier."""

    def __call__(self, samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> Classifier:
        """Trains.

        Args:
            samples: the training set, x [n, ...] and y int64 [n].
            weights: of the samples in the loss, [n], at least 0; those of weight 0 are left out. None: 1 each.
            seed: of the order of the samples and of whatever else the training draws.
        """


class DefendedFit(Protocol):
    """Trains as the victim does behind its defence: what an attacker who knows the defence tries his poison on."""

    def __call__(self, samples: Batch, /, *, trusted: Batch, seed: int = 0) -> tuple[Classifier, Tensor | None]:
        """Trains.

        Args:
            samples: the training set, x [n, ...] and y int64 [n].
            trusted: what the defence trusts in place of its own trusted samples, which the attacker does not have.
            seed: as in `Fit`, and of what the defence draws.

        Returns:
            the classifier, and the weight that each sample had at the end [n], 0 where it was left out; None where
            samples are not told apart.
        """


@runtime_checkable
class ResumableFit(Fit, Protocol):
    """A training that can also go on from a classifier that it has trained before."""

    def resume(
        self, classifier: Classifier, samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0
    ) -> Classifier:
        """Trains from a classifier of this training on, which stays as it is.

        Args:
            classifier: where to start.
            samples, weights, seed: as in `Fit`.
        """


@runtime_checkable
class NetFit(Fit, Protocol):
    """The training of a net, whose epochs can also be made one at a time, on a set that changes between them."""

    @property
    def settings(self) -> TrainingSettings:
        """How the net is trained."""

    def __call__(self, samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> View:
        """Trains; see `Fit`. The view is differentiable in samples and parameters."""

    def learner(self, seed: int = 0, *, loss: AnyLoss | None = None, start: View | None = None) -> Learner:
        """A net before its first step, with a new optimizer.

        Args:
            seed: of the first weights, where these are random. 0: those that a whole training begins with.
            loss: that is descended. None: the training's own.
            start: of a net of this training, whose weights are those to begin with in place of the seed's.
        """

    def train_epoch(
        self,
        learner: Learner,
        samples: Batch,
        order: Epochs,
        done: int,
        *,
        gradient: GradientFn[Batch] = online_gradient,
    ) -> list[StepRecord]:
        """Trains a net for one epoch.

        Args:
            learner: changes.
            samples: x [n, ...] and y int64 [n].
            order: of the n samples; its generator also draws the augmentation.
            done: epochs of the training that are over, from which the learning rate follows.
            gradient: computes that of a step, by default in one backward pass.
        """
