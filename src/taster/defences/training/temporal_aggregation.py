"""Temporal aggregation: models on windows of time, so that poison of a short time reaches few votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taster.data.partitions import content_order
from taster.defences.training.run_off import votes_of
from taster.defences.training.stacked_models import BaseModels, TrainBaseModels
from taster.defences.training.training_set import check_samples, check_training_set
from taster.defences.training.vote_certificates import margins, vote_counts
from taster.errors import BatchError, DataError, SettingError
from taster.utils.setting_types import Count, PositiveCount
from taster.utils.settings import validate_settings


@dataclass(frozen=True, eq=False)
class TemporalPrediction:
    """Predictions with two certificates each. Poison may be of any amount within its time.

    Attributes:
        labels: int64 [n].
        duration: int64 [n]. No poison whose samples all arrived within this many periods on end changes the label.
        earliness: int64 [n]. No poison that began at most this many periods ago changes the label: the period of the
            newest model counts as the first.
    """

    labels: Tensor
    duration: Tensor
    earliness: Tensor


def temporal_certificate(votes: Tensor, classes: int, coverage: int) -> TemporalPrediction:
    """The plurality vote of models on windows of time, with how long poison may last without changing it.

    Model i was trained on the samples of the periods i - n + 1 to i. Poison of τ periods on end reaches n + τ - 1
    models on end; poison of earliness τ reaches the newest τ. A label is certified if it wins although all models in
    the worst such window vote for another one. Both are exact for given votes.

    Args:
        votes: int64 [samples, k], from the oldest of the k models to the newest, a period apart.
        classes: number of classes.
        coverage: n, at least 1.

    Raises:
        BatchError, LabelError: as in `vote_counts`.
        SettingError: for a coverage below 1.

    Source: Wang and Feizi 2023, temporal aggregation with base coverage n and aggregation size k; the certificates are
    computed from each sample's votes.
    """
    if coverage < 1:
        raise SettingError(f"coverage: got {coverage}, wanted at least 1")
    counts = vote_counts(votes, classes)
    label = counts.argmax(1)
    models = votes.shape[1]
    # Votes of the models before each, by class: a window's votes are a difference of two.
    cast = torch.zeros(len(votes), models + 1, classes, dtype=torch.int64, device=votes.device)
    cast[:, 1:].scatter_(2, votes[:, :, None], 1)
    before = cast.cumsum(1)
    lasts = torch.zeros_like(label)
    recent = torch.zeros_like(label)
    for width in range(1, models + 1):
        windows = before[:, width:] - before[:, :-width]  # [samples, windows, classes]
        holds = torch.stack([_withstands(counts, windows[:, i], label) for i in range(windows.shape[1])], 1)
        recent += (recent == width - 1) & holds[:, -1]
        if width >= coverage:
            lasts += (lasts == width - coverage) & holds.all(1)
    return TemporalPrediction(label, lasts, recent)


def _withstands(counts: Tensor, window: Tensor, label: Tensor) -> Tensor:
    """Whether a label wins although all models of a window vote for any one other class, bool [samples]."""
    size = window.sum(1, keepdim=True)
    # The other class gains all votes of the window that it does not have, and the label loses those that it has.
    own = window.gather(1, label[:, None])
    left = margins(counts, label) - own - (size - window)
    return (left >= 0).scatter(1, label[:, None], True).all(1)


@validate_settings
def temporal_aggregation(
    *, models: PositiveCount = 50, coverage: PositiveCount = 1, seed: Count = 0
) -> TemporalAggregation:
    """Temporal aggregation: the newest k models vote, each trained on the samples of n periods.

    The certificates rest on the times at which samples arrived, which nobody else may write to. When a period ends,
    only its own model has to be trained; `temporal_certificate` takes the votes of models that were kept.

    Args:
        models: k, the aggregation size.
        coverage: n, the periods that a model is trained on.
        seed: of the base models.

    Source: Wang and Feizi 2023.
    """
    return TemporalAggregation(models, coverage, seed)


@dataclass(frozen=True)
class TemporalAggregation:
    """See `temporal_aggregation`."""

    models: int
    coverage: int
    seed: int

    def members(self, x: Tensor, y: Tensor, period: Tensor, newest: int) -> Sequence[Tensor]:
        """The samples of each model, int64 [n_i] in content order, from the oldest model to the newest.

        Raises:
            DataError: if the samples begin later than the first model needs, or go on after the newest period.
        """
        oldest = newest - self.models - self.coverage + 2
        if int(period.max()) > newest or int(period.min()) > oldest:
            raise DataError(
                f"got samples of the periods {int(period.min())} to {int(period.max())}, wanted a beginning at "
                f"{oldest} or before and an end at {newest}, for {self.models} models of {self.coverage} periods each"
            )
        order = content_order(x, y).to(period.device)
        when = period[order]
        last = range(newest - self.models + 1, newest + 1)
        return [order[(when > end - self.coverage) & (when <= end)].to(x.device) for end in last]

    def __call__(
        self, x: Tensor, y: Tensor, period: Tensor, train: TrainBaseModels, *, newest: int, classes: int
    ) -> TemporalEnsemble:
        """Trains the ensemble on samples with times.

        Args:
            x: samples [n, ...], floating point, or uint8, which models read as float32 from 0 to 1.
            y: labels [n], int64.
            period: when each sample arrived, int64 [n].
            train: trains the base models: `vectorized_training(make_model)`.
            newest: the last period that has ended. It is not taken from the samples: who can leave some out could
                move it.
            classes: number of classes.

        Raises:
            BatchError, LabelError, DataError, SettingError, ModelError: as in `PartitionAggregation`; also for times of
                another shape or type, and too few periods.
        """
        if classes < 2:
            raise SettingError(f"classes: got {classes}, wanted at least 2")
        check_training_set(x, y, classes)
        if period.dtype != torch.int64 or period.shape != y.shape:
            raise BatchError(f"period: got {list(period.shape)} of {period.dtype}, wanted int64 [{len(y)}]")
        members = self.members(x, y, period, newest)
        models = train(x, y, members, classes=classes, seed=self.seed)
        return TemporalEnsemble(models, self.coverage, classes, tuple(x.shape[1:]))


class TemporalEnsemble:
    """Models on windows of time that vote.

    Attributes:
        models: from the oldest to the newest.
    """

    def __init__(self, models: BaseModels, coverage: int, classes: int, sample_shape: tuple[int, ...]) -> None:
        self.models = models
        self._coverage = coverage
        self._classes = classes
        self._shape = sample_shape

    @validate_settings
    def predict(self, x: Tensor, *, samples_at_once: PositiveCount = 128) -> TemporalPrediction:
        """Predicts labels, with how long poison each withstands.

        Args:
            x: samples [n, ...].
            samples_at_once: how many are predicted at a time.

        Raises:
            BatchError: for samples of another shape than those of training, or that are not finite.
        """
        check_samples(x)
        if tuple(x.shape[1:]) != self._shape:
            raise BatchError(f"x: got samples {list(x.shape[1:])}, wanted {list(self._shape)} as in training")
        found = [
            temporal_certificate(votes_of(self.models.scores(some)), self._classes, self._coverage)
            for some in torch.split(x, samples_at_once)
        ]
        return TemporalPrediction(
            torch.cat([part.labels for part in found]),
            torch.cat([part.duration for part in found]),
            torch.cat([part.earliness for part in found]),
        )
