"""What each of many clients computes on its own samples, all of them at once."""

from taster.clientwise.captured import renewed
from taster.clientwise.gradients import ClientGradients, LocalTraining, Statistics

__all__ = ["ClientGradients", "LocalTraining", "Statistics", "renewed"]
