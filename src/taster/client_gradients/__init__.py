"""What each of many clients computes on its own samples, all of them at once."""

from taster.client_gradients.batch_norm import merge_statistics, statistics_layout
from taster.client_gradients.gradients import BatchNormSync, ClientGradients, LocalSGD, empty_updates

__all__ = ["BatchNormSync", "ClientGradients", "LocalSGD", "empty_updates", "merge_statistics", "statistics_layout"]
