"""Federated learning: client updates, their aggregation, and a server whose rounds are guarded steps."""

from collections.abc import Callable

from taster.federated.aggregation import (
    AggregationFn,
    AggregationRule,
    ModelAwareAggregator,
    aggregate_gradient,
    as_gradient,
    mean,
)
from taster.federated.aggregators.aggregator import Aggregator
from taster.federated.aggregators.coordinate_wise import coordinate_median, trimmed_mean
from taster.federated.aggregators.fltrust import fltrust
from taster.federated.aggregators.krum import bulyan, krum, multi_krum
from taster.federated.aggregators.pre_aggregators import nearest_neighbor_mixing, update_clipping, weighted_mean
from taster.federated.aggregators.robust_centers import centered_clipping, geometric_median
from taster.federated.client_pool import ClientPool, Cohort, dirichlet_partition, iid_partition, one_sample_partition
from taster.federated.replies import ClientReply, NamedClientUpdates
from taster.federated.reply_checks import claimed_weight, stack_replies, validate_updates
from taster.federated.reply_format import ReplyFormat, SideData, averaged_buffers
from taster.federated.server import RoundOutcome, Server
from taster.federated.simulation import Simulation

AGGREGATORS: dict[str, Callable[..., AggregationRule]] = {
    "mean": weighted_mean,
    **{
        rule.__name__: rule
        for rule in (
            coordinate_median,
            trimmed_mean,
            krum,
            multi_krum,
            bulyan,
            geometric_median,
            centered_clipping,
            fltrust,
            nearest_neighbor_mixing,
            update_clipping,
        )
    },
}
"""Aggregation rules by the names that recipes use."""

__all__ = [
    "AGGREGATORS",
    "AggregationFn",
    "AggregationRule",
    "Aggregator",
    "ClientPool",
    "ClientReply",
    "Cohort",
    "ModelAwareAggregator",
    "NamedClientUpdates",
    "ReplyFormat",
    "RoundOutcome",
    "Server",
    "SideData",
    "Simulation",
    "aggregate_gradient",
    "as_gradient",
    "averaged_buffers",
    "bulyan",
    "centered_clipping",
    "claimed_weight",
    "coordinate_median",
    "dirichlet_partition",
    "fltrust",
    "geometric_median",
    "iid_partition",
    "krum",
    "mean",
    "multi_krum",
    "nearest_neighbor_mixing",
    "one_sample_partition",
    "stack_replies",
    "trimmed_mean",
    "update_clipping",
    "validate_updates",
    "weighted_mean",
]
