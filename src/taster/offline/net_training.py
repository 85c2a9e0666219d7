"""Training of a net on a data set, through guarded steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taster.core.backward import online_gradient
from taster.core.batch import Batch, check_tensors
from taster.core.epochs import Epochs
from taster.core.fitting import Classifier
from taster.core.functional_model import Precision
from taster.core.guard import Guard
from taster.core.learner import Learner
from taster.core.losses import AnyLoss
from taster.core.snapshots import SnapshotBuffer
from taster.core.step import GradientFn
from taster.core.step_record import StepRecord
from taster.core.training_settings import TrainingSettings
from taster.core.view import View
from taster.data import Augment
from taster.errors import ModelError
from taster.offline.last_layer import ends_with, features_of, freeze_features, last_linear
from taster.utils.seeds import derived_seed, generator, kept_random_numbers

Mode = Literal["scratch", "fine_tune", "transfer"]
"""What is trained: a model from random weights, all of a trained model, or its last layer alone."""


@dataclass(frozen=True)
class EpochEnd:
    """A training after an epoch.

    Attributes:
        epoch: how many epochs are over.
        view: of the model.
        records: of the epoch's steps.
    """

    epoch: int
    view: View
    records: list[StepRecord]


@dataclass(frozen=True)
class NetTraining:
    """Trains a net, each time from the same weights: a `NetFit`.

    Attributes:
        make_model: makes the model with the weights that training begins with, on its device; of a seed that is not 0,
            with other weights where these are random.
        settings: how it is trained.
        mode: "transfer" trains the last linear layer alone, with the statistics of normalization as they are. Without
            a guard and augmentation its features are computed once, where the net ends with that layer; what comes out
            is that of the plain loop up to rounding.
        seed: of the order of the samples, augmentation and dropout, together with the one given to a call.
        precision: of the forward pass.
        input_range: the least and greatest value of a sample; None for any.
    """

    make_model: Callable[[int], nn.Module]
    settings: TrainingSettings
    mode: Mode = "scratch"
    seed: int = 0
    precision: Precision = "float32"
    input_range: tuple[float, float] | None = None

    def __call__(self, samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0) -> View:
        """Trains without a guard; see `taster.core.fitting.Fit`."""
        return self.train(samples, Guard(), weights=weights, seed=seed)

    def resume(
        self, classifier: Classifier, samples: Batch, /, *, weights: Tensor | None = None, seed: int = 0
    ) -> View:
        """Trains on from a model that this training has made, with a new optimizer; see
        `taster.core.fitting.ResumableFit`.

        Raises:
            ModelError: for another model.
        """
        if not isinstance(classifier, View):
            raise ModelError(f"got a {type(classifier).__name__} to go on from, wanted a model that this training made")
        return self.train(samples, Guard(), weights=weights, seed=seed, start=classifier)

    def train(
        self,
        samples: Batch,
        guard: Guard,
        *,
        weights: Tensor | None = None,
        seed: int = 0,
        on_epoch: Callable[[EpochEnd], None] | None = None,
        start: View | None = None,
    ) -> View:
        """Trains behind a guard.

        Args:
            samples: the training set, x [n, ...] and y int64 [n], on the model's device.
            guard: the stages that each batch passes.
            weights: see `taster.core.epochs.Epochs`; None: equal.
            seed: one more, so that a set can be trained on several times.
            on_epoch: called after each epoch.
            start: has the weights to begin with in place of the model's own.

        Returns:
            a view of the trained model, in eval mode.

        Raises:
            ModelError: if a step without a guard comes to no finite loss or gradient, or nothing can be trained.
        """
        check_tensors(samples, "training")
        settings = self.settings
        weights = torch.ones(len(samples)) if weights is None else weights
        draws = generator(self.seed, f"offline order {seed}")
        order = Epochs(weights, settings.batch_size, draws, settings.subsample)
        unguarded = not (guard.screens or guard.transforms or guard.gates)
        with kept_random_numbers(samples.x.device):
            learner = whole = self._learner(guard, start)
            if unguarded and self.learns_from_features(whole, samples):
                samples = features_of(whole.view(), samples)
                learner = self._learner_of(last_linear(whole.model), guard)  # the net's own layer
            torch.manual_seed(derived_seed(self.seed, f"offline dropout {seed}"))
            for epoch in range(1, settings.epochs + 1):
                records = self.train_epoch(learner, samples, order, epoch - 1)
                refused = [record.verdict for record in records if not record.verdict.committed]
                if refused and unguarded:
                    raise ModelError(
                        f"the training came to nothing in epoch {epoch}: {refused[0].reason}; try a smaller learning "
                        "rate"
                    )
                if on_epoch is not None:
                    on_epoch(EpochEnd(epoch, self._view(whole, learner), records))
        whole.model.eval()
        return self._view(whole, learner)

    def learner(self, seed: int = 0, *, loss: AnyLoss | None = None, start: View | None = None) -> Learner:
        """A net before its first step; see `taster.core.fitting.NetFit`."""
        with kept_random_numbers():  # making a model seeds torch's own generator
            return self._learner(Guard(), start, seed, loss)

    def train_epoch(
        self,
        learner: Learner,
        samples: Batch,
        order: Epochs,
        done: int,
        *,
        gradient: GradientFn[Batch] = online_gradient,
    ) -> list[StepRecord]:
        """Trains a net for one epoch; see `taster.core.fitting.NetFit`."""
        settings, records, steps = self.settings, [], self.settings.epochs * order.batches
        augment = Augment(settings.crop, settings.flip)
        for number, places in enumerate(order):
            for group in learner.optimizer.param_groups:
                group["lr"] = settings.learning_rate_at((done * order.batches + number) / steps)
            drawn = samples.select(places.to(samples.x.device))
            if settings.crop or settings.flip:
                drawn = Batch(augment(drawn.x, order.generator), drawn.y)
            records.append(learner.run(drawn, gradient))
        return records

    def learns_from_features(self, whole: Learner, samples: Batch) -> bool:
        """Whether training the last layer on features that are computed once comes to the same, without a guard.

        Args:
            whole: the net before its first step.
            samples: that it is to be trained on.
        """
        if self.mode != "transfer" or self.settings.crop or self.settings.flip:
            return False
        low, high = self.input_range or (-torch.inf, torch.inf)
        within = bool(((samples.x >= low) & (samples.x <= high)).all())  # a step refuses what is not
        return within and ends_with(last_linear(whole.model), whole.model, whole.view(), samples.x)

    def check_mode(self) -> None:
        """Raises ModelError if the model has nothing that the mode could train."""
        if self.mode == "transfer":
            freeze_features(self.make_model(0))

    def _learner(self, guard: Guard, start: View | None, seed: int = 0, loss: AnyLoss | None = None) -> Learner:
        model = self.make_model(seed)
        if start is not None:
            model.load_state_dict({**model.state_dict(), **start.params, **start.buffers})
        if self.mode == "transfer":
            freeze_features(model)
        else:
            model.train()
        return self._learner_of(model, guard, loss, self.input_range)

    def _view(self, whole: Learner, learner: Learner) -> View:
        """Of a net, of which the learner may train the last layer alone: then the net's own has not seen it change."""
        return (
            learner.view()
            if learner is whole
            else self._learner_of(whole.model, Guard(), None, self.input_range).view()
        )

    def _learner_of(
        self,
        model: nn.Module,
        guard: Guard,
        loss: AnyLoss | None = None,
        input_range: tuple[float, float] | None = None,
    ) -> Learner:
        settings = self.settings
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )

        def smoothed(outputs: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(outputs, y, label_smoothing=settings.label_smoothing)

        snapshots = SnapshotBuffer.for_rewind(guard.max_rewind) if guard.max_rewind else None
        return Learner(
            model,
            optimizer,
            loss or (smoothed if settings.label_smoothing else cross_entropy),
            guard,
            snapshots=snapshots,
            precision=self.precision,
            input_range=input_range,
        )
