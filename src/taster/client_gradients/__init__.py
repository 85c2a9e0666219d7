"""What each of many clients computes on its own samples, all of them at once."""

from taster.client_gradients.gradients import ClientGradients, LocalTraining, Statistics
from taster.client_gradients.layer_hooks import renewed

__all__ = ["ClientGradients", "LocalTraining", "Statistics", "renewed"]
