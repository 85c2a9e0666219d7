"""Runs and guards in MLflow and TensorBoard (extra `tracking`)."""

from taster.integrations.tracking.guard_log import GuardLog
from taster.integrations.tracking.mlflow_tracker import MLflowTracker
from taster.integrations.tracking.tensorboard_tracker import TensorBoardTracker
from taster.integrations.tracking.tracker import Tracker

__all__ = ["GuardLog", "MLflowTracker", "TensorBoardTracker", "Tracker"]
