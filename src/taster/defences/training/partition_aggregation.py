"""Certified aggregation: many models on small parts of a data set, so that little poison reaches few votes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from taster.data.partitions import Partition, hash_partition, rank_partition
from taster.defences.training.certified_prediction import CertifiedPrediction
from taster.defences.training.run_off import run_off_certificate, votes_of
from taster.defences.training.stacked_models import BaseModels, TrainBaseModels
from taster.defences.training.training_set import check_samples, check_training_set
from taster.defences.training.vote_certificates import finite_aggregation_certificate, plurality_certificate
from taster.errors import BatchError, ModelError, SettingError
from taster.utils.setting_types import Count, PositiveCount
from taster.utils.settings import validate_settings

PartitionRule = Literal["hash", "hash_with_label", "rank"]
Vote = Literal["plurality", "run_off"]


@validate_settings
def deep_partition_aggregation(
    *, partitions: PositiveCount = 250, partition_by: PartitionRule = "hash", vote: Vote = "plurality", seed: Count = 0
) -> PartitionAggregation:
    """Deep Partition Aggregation: each sample is in one of k parts, a model is trained on each, and they vote.

    The radius of a prediction is a number of samples. With "hash" each sample that is inserted, removed or given
    another label counts as one, and one whose content is changed as two (a removal and an insertion). With
    "hash_with_label" a changed label counts as two. With "rank" only labels may have been changed, each counts as
    one, and the parts are of equal size.

    Args:
        partitions: k. More parts withstand more poison with models that know less.
        partition_by: what decides the part: a hash of the sample; of the sample and its label; or the sample's rank
            among all samples, labels aside. The last is the rule of SS-DPA; there `x` may also be features that were
            learned from all samples without any label.
        vote: "plurality", or "run_off": the two classes with most votes stand again, and the scores of all models
            decide between them.
        seed: of the base models.

    Source: Levine and Feizi 2021 (DPA; "rank" is the partition of their SS-DPA); Rezaei et al. 2023 ("run_off").
    """
    return PartitionAggregation(partitions, 1, partition_by, vote, seed)


@validate_settings
def finite_aggregation(
    *, partitions: PositiveCount = 50, spread: PositiveCount = 4, vote: Vote = "plurality", seed: Count = 0
) -> PartitionAggregation:
    """Finite aggregation: k d buckets of samples, each in the training sets of d of k d models.

    Models have as many samples as those of Deep Partition Aggregation with k parts, but poison in one bucket reaches
    models that it seldom shares with another, so that the certificates are larger; training takes d times as long.
    The radius counts samples that are inserted, removed or given another label; one with a changed content is two.

    Args:
        partitions: k: a model is trained on 1/k of the samples.
        spread: d; 1 is Deep Partition Aggregation.
        vote: as in `deep_partition_aggregation`.
        seed: of the base models.

    Source: Wang, Levine and Feizi 2022; Rezaei et al. 2023 ("run_off").
    """
    return PartitionAggregation(partitions, spread, "hash", vote, seed)


@dataclass(frozen=True)
class PartitionAggregation:
    """A training of an ensemble with certificates; made by `deep_partition_aggregation` and `finite_aggregation`.

    Attributes:
        partitions: k.
        spread: d.
        partition_by: what decides which models see a sample.
        vote: how the models decide.
        seed: of the base models.
    """

    partitions: int
    spread: int
    partition_by: PartitionRule
    vote: Vote
    seed: int

    def divide(self, x: Tensor, y: Tensor) -> Partition:
        """Which samples each model is trained on.

        Args:
            x: samples [n, ...].
            y: labels [n], int64.

        Raises:
            DataError: for fewer samples than partitions; with "rank" also for equal samples.
        """
        if self.partition_by == "rank":
            return rank_partition(x, y, self.partitions)
        with_labels = self.partition_by == "hash_with_label"
        return hash_partition(x, y, self.partitions, spread=self.spread, with_labels=with_labels)

    def __call__(self, x: Tensor, y: Tensor, train: TrainBaseModels, *, classes: int) -> CertifiedEnsemble:
        """Trains the ensemble. In which order the samples come changes nothing, bit for bit.

        Whatever was done to the samples before (pixels standardised, features, duplicates taken out) must have been
        done to each by itself: what is computed from all of them carries poison from one part to the others.

        Args:
            x: samples [n, ...], floating point, or uint8, which models read as float32 from 0 to 1.
            y: labels [n], int64.
            train: trains the base models: `vectorized_training(make_model)`.
            classes: number of classes, known beforehand: what the labels hold may be poisoned.

        Raises:
            BatchError, LabelError, DataError: for samples that are not finite, labels outside of the classes, one
                class alone, fewer samples than partitions.
            SettingError: for fewer than two classes.
            ModelError: for a model that does not fit.
        """
        if classes < 2:
            raise SettingError(f"classes: got {classes}, wanted at least 2")
        check_training_set(x, y, classes)
        partition = self.divide(x, y)
        models = train(x, y, partition.members, classes=classes, seed=self.seed)
        if len(models) != len(partition.members):
            raise ModelError(f"train: got {len(models)} models for {len(partition.members)} parts, wanted one for each")
        return CertifiedEnsemble(models, partition.bases, classes, self.vote, tuple(x.shape[1:]))


class CertifiedEnsemble:
    """Models that vote, with a certificate for each prediction.

    Attributes:
        models: the base models.
        bases: int64 [b, d], the models that each bucket of samples feeds.
        classes: number of classes.
    """

    def __init__(
        self, models: BaseModels, bases: Tensor, classes: int, vote: Vote, sample_shape: tuple[int, ...]
    ) -> None:
        self.models = models
        self.bases = bases
        self.classes = classes
        self._vote = vote
        self._shape = sample_shape

    @validate_settings
    def predict(
        self, x: Tensor, *, samples_at_once: PositiveCount = 128, vote: Vote | None = None
    ) -> CertifiedPrediction:
        """Predicts labels, with how many poisoned samples each withstands.

        Args:
            x: samples [n, ...].
            samples_at_once: how many are predicted at a time; memory grows with it, times the number of models.
            vote: another way to decide. Default: as the ensemble was made.

        Raises:
            BatchError: for samples of another shape than those of training, or that are not finite.
        """
        check_samples(x)
        if tuple(x.shape[1:]) != self._shape:
            raise BatchError(f"x: got samples {list(x.shape[1:])}, wanted {list(self._shape)} as in training")
        found = [self._decide(self.models.scores(some), vote or self._vote) for some in torch.split(x, samples_at_once)]
        return CertifiedPrediction(
            torch.cat([part.labels for part in found]), torch.cat([part.radius for part in found])
        )

    def _decide(self, scores: Tensor, vote: Vote) -> CertifiedPrediction:
        bases = self.bases.to(scores.device)
        if vote == "run_off":
            return run_off_certificate(scores, bases)
        if bases.shape[1] == 1:
            return plurality_certificate(votes_of(scores), self.classes)
        return finite_aggregation_certificate(votes_of(scores), self.classes, bases)
