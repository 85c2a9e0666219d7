"""Training on data sets, from scratch or from trained weights, and what is measured of it."""

from taster.offline.estimator_training import EstimatorTraining, FittedEstimator
from taster.offline.evaluate import (
    Removal,
    accuracy,
    certified_accuracy,
    certified_budgets,
    mean_loss,
    recall_by_class,
    target_success,
)
from taster.offline.last_layer import freeze_features
from taster.offline.many_victims import train_victims
from taster.offline.net_training import EpochEnd, Mode, NetTraining

__all__ = [
    "EpochEnd",
    "EstimatorTraining",
    "FittedEstimator",
    "Mode",
    "NetTraining",
    "Removal",
    "accuracy",
    "certified_accuracy",
    "certified_budgets",
    "freeze_features",
    "mean_loss",
    "recall_by_class",
    "target_success",
    "train_victims",
]
