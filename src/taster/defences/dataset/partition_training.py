"""Certified aggregation as a training: small nets on parts of the training set, which vote."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.core.fitting import Classifier
from taster.core.threat import countermeasure
from taster.defences.dataset.run_checks import check_run
from taster.defences.dataset_defence import RobustTraining, TrainingRun
from taster.defences.training.partition_aggregation import (
    CertifiedEnsemble,
    PartitionAggregation,
    PartitionRule,
    Vote,
    deep_partition_aggregation,
    finite_aggregation,
)
from taster.defences.training.run_off import votes_of
from taster.defences.training.sgd import SGDSettings
from taster.defences.training.vectorized_training import vectorized_training
from taster.defences.training.vote_certificates import vote_counts
from taster.models.mlp import mlp
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings

Widths = list[Annotated[int, Field(ge=1)]]


@countermeasure(
    "ensemble",
    "indiscriminate availability",
    "targeted integrity",
    "targeted availability",
    note="A certificate holds for each prediction, whatever the poison is for.",
)
@validate_settings
def partition_aggregation_training(
    *,
    partitions: PositiveCount = 50,
    partition_by: PartitionRule = "hash",
    vote: Vote = "plurality",
    hidden: Widths | None = None,
    sgd: SGDSettings = SGDSettings(),
    models_at_once: PositiveCount = 64,
) -> RobustTraining:
    """Deep Partition Aggregation with small nets: each sample is in one of k parts, each trains a net, and they vote.

    It trains nets of its own and not the model of the run. What the radius of a prediction counts, see
    `taster.defences.training.deep_partition_aggregation`.

    Args:
        partitions: k.
        partition_by: what decides the part of a sample.
        vote: how the nets decide.
        hidden: widths of the hidden layers of a net; none makes it a softmax regression. Default: [32].
        sgd: how each net is trained.
        models_at_once: how many are trained side by side.

    Raises (when called):
        BatchError, LabelError: see `taster.defences.dataset.run_checks.check_run`.
        DataError: for fewer samples than partitions; with "rank" also for equal samples.

    Source: Levine and Feizi 2021; Rezaei et al. 2023 ("run_off").
    """

    def train(run: TrainingRun) -> tuple[Classifier, None]:
        aggregation = deep_partition_aggregation(
            partitions=partitions, partition_by=partition_by, vote=vote, seed=run.seed
        )
        return _ensemble(run, aggregation, "partition_aggregation_training", hidden, sgd, models_at_once), None

    return RobustTraining(train)


@countermeasure(
    "ensemble",
    "indiscriminate availability",
    "targeted integrity",
    "targeted availability",
    note="A certificate holds for each prediction, whatever the poison is for.",
)
@validate_settings
def finite_aggregation_training(
    *,
    partitions: PositiveCount = 50,
    spread: PositiveCount = 4,
    vote: Vote = "plurality",
    hidden: Widths | None = None,
    sgd: SGDSettings = SGDSettings(),
    models_at_once: PositiveCount = 64,
) -> RobustTraining:
    """Finite aggregation with small nets: k d buckets of samples, each in the training sets of d of k d nets.

    It trains nets of its own and not the model of the run. What the radius of a prediction counts, see
    `taster.defences.training.finite_aggregation`.

    Args:
        partitions: k: a net is trained on 1/k of the samples.
        spread: d.
        vote: how the nets decide.
        hidden: widths of the hidden layers of a net; none makes it a softmax regression. Default: [32].
        sgd: how each net is trained.
        models_at_once: how many are trained side by side.

    Raises (when called):
        BatchError, LabelError, DataError: see `partition_aggregation_training`.

    Source: Wang, Levine and Feizi 2022; Rezaei et al. 2023 ("run_off").
    """

    def train(run: TrainingRun) -> tuple[Classifier, None]:
        aggregation = finite_aggregation(partitions=partitions, spread=spread, vote=vote, seed=run.seed)
        return _ensemble(run, aggregation, "finite_aggregation_training", hidden, sgd, models_at_once), None

    return RobustTraining(train)


class VotingClassifier:
    """An ensemble as a `CertifiedClassifier`.

    Attributes:
        ensemble: the models that vote.

    Args:
        ensemble: see above.
        vote: how its models decide.
        device: where they are.
    """

    def __init__(self, ensemble: CertifiedEnsemble, vote: Vote, device: torch.device) -> None:
        self.ensemble = ensemble
        self._vote = vote
        self._device = device

    def outputs(self, x: Tensor) -> Tensor:
        """The share of votes for each class, float32 [n, classes]. Where another class than that with most votes is
        elected, as in a run-off, the two change places, and the elected one has half a vote more."""
        moved = x.to(self._device)
        models, classes = len(self.ensemble.models), self.ensemble.classes
        counts = torch.cat(
            [vote_counts(votes_of(self.ensemble.models.scores(p)), classes) for p in torch.split(moved, 128)]
        )
        shares = counts.float() / models
        first = shares.argmax(1)
        elected = self.ensemble.predict(moved).labels if self._vote == "run_off" else first
        row = (elected != first).nonzero().flatten()
        elected, first = elected[row], first[row]
        won, lost = shares[row, first] + 0.5 / models, shares[row, elected]
        shares[row, elected], shares[row, first] = won, lost
        return shares.to(x.device)

    def radius(self, x: Tensor) -> Tensor:
        """How many poisoned samples each prediction withstands, int64 [n]."""
        return self.ensemble.predict(x.to(self._device)).radius.to(x.device)


def _ensemble(
    run: TrainingRun,
    aggregation: PartitionAggregation,
    name: str,
    hidden: Widths | None,
    sgd: SGDSettings,
    models_at_once: int,
) -> VotingClassifier:
    samples = check_run(run, name)
    shape = (samples.x[0].numel(), 1, 1)
    widths = [32] if hidden is None else hidden
    train = vectorized_training(lambda: mlp(shape, run.classes, hidden=widths), sgd=sgd, models_at_once=models_at_once)
    ensemble = aggregation(samples.x, samples.y, train, classes=run.classes)
    return VotingClassifier(ensemble, aggregation.vote, samples.x.device)
