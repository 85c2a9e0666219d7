"""Client updates and their aggregation; a round is one `taster.step.guarded_step` over `Updates`."""

from taster.federated.aggregation import Aggregate, aggregated, coordinate_median, flatten, mean, unflatten

__all__ = ["Aggregate", "aggregated", "coordinate_median", "flatten", "mean", "unflatten"]
