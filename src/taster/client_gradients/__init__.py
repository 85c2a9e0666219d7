"""What each of many clients computes on its own samples, all of them at once."""

from taster.client_gradients.gradients import BatchNormSync, ClientGradients, LocalSGD
from taster.client_gradients.layer_hooks import merge_statistics

__all__ = ["BatchNormSync", "ClientGradients", "LocalSGD", "merge_statistics"]
