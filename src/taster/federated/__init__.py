"""Client updates and their aggregation; a round is one `taster.core.step.guarded_step` over `Updates`."""

from taster.federated.aggregation import Aggregate, Rule, Situated, aggregated, flatten, mean, as_gradient
from taster.federated.aggregators.aggregator import Aggregator
from taster.federated.aggregators.coordinate_wise import coordinate_median, trimmed_mean
from taster.federated.aggregators.fltrust import fltrust
from taster.federated.aggregators.krum import bulyan, krum, multi_krum
from taster.federated.aggregators.pre_aggregators import nearest_neighbour_mixing, update_clipping, weighted_mean
from taster.federated.aggregators.robust_centers import centred_clipping, geometric_median
from taster.federated.client_pool import Invited, Population, dirichlet_shares, iid_shares, single_shares
from taster.federated.client_updates import ClientUpdates, Reply, receive, vetted
from taster.federated.server import Round, Server
from taster.federated.simulation import Simulation

AGGREGATORS = {
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
            centred_clipping,
            fltrust,
            nearest_neighbour_mixing,
            update_clipping,
        )
    },
}
"""Rules of aggregation by name, as a recipe names them."""

__all__ = [
    "AGGREGATORS",
    "Aggregate",
    "Aggregator",
    "ClientUpdates",
    "Invited",
    "Population",
    "Reply",
    "Round",
    "Rule",
    "Server",
    "Simulation",
    "Situated",
    "aggregated",
    "bulyan",
    "centred_clipping",
    "coordinate_median",
    "dirichlet_shares",
    "flatten",
    "fltrust",
    "geometric_median",
    "iid_shares",
    "krum",
    "mean",
    "multi_krum",
    "nearest_neighbour_mixing",
    "receive",
    "single_shares",
    "trimmed_mean",
    "as_gradient",
    "update_clipping",
    "vetted",
    "weighted_mean",
]
