"""Trainings that bound what poison in a data set can do: ensembles over parts of it, with a certificate a prediction.

Votes and certificates see scores alone, so they serve models of any kind."""

from taster.data.partitions import Partition, hash_partition, rank_partition
from taster.defences.training.certified_prediction import CertifiedPrediction
from taster.defences.training.looped_training import LoopedTraining, looped_training
from taster.defences.training.partition_aggregation import (
    CertifiedEnsemble,
    PartitionAggregation,
    deep_partition_aggregation,
    finite_aggregation,
)
from taster.defences.training.ridge_training import LinearModels, RidgeTraining, ridge_training
from taster.defences.training.run_off import run_off_certificate, votes_of
from taster.defences.training.sgd import SGDSettings
from taster.defences.training.stacked_models import BaseModels, ListedModels, StackedModels, TrainBaseModels
from taster.defences.training.temporal_aggregation import (
    TemporalAggregation,
    TemporalEnsemble,
    TemporalPrediction,
    temporal_aggregation,
    temporal_certificate,
)
from taster.defences.training.vectorized_training import VectorizedTraining, vectorized_training
from taster.defences.training.vote_certificates import finite_aggregation_certificate, plurality_certificate

__all__ = [
    "BaseModels",
    "CertifiedEnsemble",
    "CertifiedPrediction",
    "LinearModels",
    "ListedModels",
    "LoopedTraining",
    "Partition",
    "PartitionAggregation",
    "RidgeTraining",
    "SGDSettings",
    "StackedModels",
    "TemporalAggregation",
    "TemporalEnsemble",
    "TemporalPrediction",
    "TrainBaseModels",
    "VectorizedTraining",
    "deep_partition_aggregation",
    "finite_aggregation",
    "finite_aggregation_certificate",
    "hash_partition",
    "looped_training",
    "plurality_certificate",
    "rank_partition",
    "ridge_training",
    "run_off_certificate",
    "temporal_aggregation",
    "temporal_certificate",
    "vectorized_training",
    "votes_of",
]
