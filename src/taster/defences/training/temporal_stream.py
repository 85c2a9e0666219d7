"""Temporal aggregation on a stream whose steps are the periods: when one ends, one more model is trained."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.threat import countermeasure
from taster.defences.training.run_off import votes_of
from taster.defences.training.sgd import SGDSettings
from taster.defences.training.stacked_models import BaseModels
from taster.defences.training.temporal_aggregation import TemporalPrediction, temporal_certificate
from taster.defences.training.training_set import check_samples, check_training_set
from taster.defences.training.vectorized_training import vectorized_training
from taster.errors import BatchError
from taster.models.mlp import mlp
from taster.utils.seeds import derived_seed
from taster.utils.setting_types import Count, PositiveCount
from taster.utils.settings import validate_settings


@countermeasure(
    "ensemble",
    "indiscriminate availability",
    "targeted integrity",
    "targeted availability",
    note="A certificate holds for each prediction, against poison of any kind and amount that lasts for a short time.",
)
@validate_settings
def temporal_aggregation_stream(
    *,
    models: PositiveCount = 50,
    coverage: PositiveCount = 1,
    hidden: list[PositiveCount] | None = None,
    sgd: SGDSettings = SGDSettings(),
    seed: Count = 0,
) -> TemporalStream:
    """Temporal aggregation of a stream: the newest k nets vote, each trained on the n batches before a moment.

    It trains nets of its own beside the model of the stream, which goes on learning without a guard and is what an
    attacker sees; accuracies are those of the vote. Each step is a period, so that `schedule.dormant` is the time
    before poison begins, and the accumulative phase with the trigger the time that it lasts.

    Args:
        models: k, the aggregation size.
        coverage: n, the steps that a net is trained on.
        hidden: widths of the hidden layers of a net; none makes it a softmax regression. Default: [32].
        sgd: how each net is trained.
        seed: of the nets.

    Source: Wang and Feizi 2023 (temporal aggregation).
    """
    return TemporalStream(models, coverage, [32] if hidden is None else list(hidden), sgd, seed)


@dataclass(frozen=True)
class TemporalStream:
    """See `temporal_aggregation_stream`."""

    models: int
    coverage: int
    hidden: list[int]
    sgd: SGDSettings
    seed: int

    @property
    def periods(self) -> int:
        """Steps until all models are there."""
        return self.models + self.coverage - 1

    def start(self, classes: int) -> WindowEnsemble:
        """An ensemble before the first step."""
        return WindowEnsemble(self, classes)


class WindowEnsemble:
    """The newest models of a stream, each trained on the newest batches of its time, which vote.

    Args:
        settings: of the ensemble.
        classes: number of classes.

    Attributes:
        complete: whether all models are there, so that there are certificates.
    """

    def __init__(self, settings: TemporalStream, classes: int) -> None:
        self._settings = settings
        self._classes = classes
        self._window: deque[Batch] = deque(maxlen=settings.coverage)
        self._models: deque[BaseModels] = deque(maxlen=settings.models)
        self._steps = 0

    def __len__(self) -> int:
        return len(self._models)

    @property
    def complete(self) -> bool:
        """Whether all models are there."""
        return len(self) == self._settings.models

    def learn(self, batch: Batch) -> None:
        """Ends a period: trains a model on its batch and those before it, once there are enough of them. What it
        becomes depends on these batches, on how many came before, and on the seed alone.

        Args:
            batch: x [n, ...], floating point, and y int64 [n].

        Raises:
            BatchError, LabelError, ModelError: for samples and labels that no net can be trained on.
        """
        check_training_set(batch.x, batch.y, self._classes, alike=True)
        settings, self._steps = self._settings, self._steps + 1
        self._window.append(batch)
        if len(self._window) < settings.coverage:
            return
        x, y = torch.cat([part.x for part in self._window]), torch.cat([part.y for part in self._window])
        shape = tuple(x.shape[1:])
        train = vectorized_training(lambda: mlp(shape, self._classes, hidden=settings.hidden), sgd=settings.sgd)
        drawn = derived_seed(settings.seed, f"period {self._steps}")
        self._models.append(train(x, y, [torch.arange(len(x), device=x.device)], classes=self._classes, seed=drawn))

    def predict(self, x: Tensor) -> TemporalPrediction:
        """Predicts labels, with how long poison each withstands.

        Args:
            x: samples [n, ...].

        Raises:
            BatchError: before all models are there, and for samples that are not finite.
        """
        if not self.complete:
            raise BatchError(
                f"got {self._steps} steps, wanted {self._settings.periods} before the vote is certified: that many "
                f"periods are what {self._settings.models} models of {self._settings.coverage} need"
            )
        return temporal_certificate(self._votes(x), self._classes, self._settings.coverage)

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """Accuracy in % of the vote of the models that are there, one at least."""
        votes = self._votes(x)
        counts = torch.zeros(len(x), self._classes, device=votes.device).scatter_add_(
            1, votes, torch.ones_like(votes, dtype=torch.float32)
        )
        return 100 * float((counts.argmax(1) == y).double().mean())

    def certified_accuracy(self, x: Tensor, y: Tensor, durations: list[int]) -> dict[int, float]:
        """By number of periods the accuracy in % that is left at the worst after poison of so many on end.

        Args:
            x: samples [n, ...].
            y: their labels [n].
            durations: numbers of periods.
        """
        found = self.predict(x)
        right = found.labels == y
        return {d: 100 * float((right & (found.duration >= d)).double().mean()) for d in durations}

    def _votes(self, x: Tensor) -> Tensor:
        """int64 [n, models that are there], from the oldest to the newest."""
        check_samples(x)
        return torch.cat([votes_of(model.scores(x)) for model in self._models], 1)
