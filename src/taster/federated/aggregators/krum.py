"""Rules based on pairwise distances: Krum, multi-Krum and Bulyan."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.core.threat import countermeasure
from taster.federated.aggregators.aggregator import Aggregator
from taster.federated.aggregators.coordinate_wise import NumByzantine, mean_around_median
from taster.stats.pairwise import PairwiseGeometry
from taster.utils.settings import validate_settings


@countermeasure("robust statistics", "indiscriminate availability")
@validate_settings
def krum(*, num_byzantine: NumByzantine = 1) -> Aggregator:
    """The update with the smallest sum of squared distances to its nearest neighbors, unweighted.

    Args:
        num_byzantine: f; distances to the n − f − 2 nearest others are summed.

    Source: Blanchard et al. 2017, Section 4.
    """

    def choose(rows: PairwiseGeometry, weights: Tensor) -> Tensor:
        return torch.tensor([select_best(rows.distances, num_byzantine)], device=rows.values.device)

    return Aggregator("krum", choose, min_clients=2 * num_byzantine + 3)


@countermeasure("robust statistics", "indiscriminate availability")
@validate_settings
def multi_krum(*, num_byzantine: NumByzantine = 1, keep: Annotated[int, Field(ge=1)] | None = None) -> Aggregator:
    """The unweighted mean of the updates with the best Krum scores.

    Args:
        num_byzantine: f.
        keep: how many; None for n − f.

    Source: Blanchard et al. 2017, Section 5 ("Multi-Krum").
    """

    def choose(rows: PairwiseGeometry, weights: Tensor) -> Tensor:
        count = min(keep or len(rows) - num_byzantine, len(rows))
        chosen = krum_scores(rows.distances, num_byzantine).argsort(stable=True)[:count]
        mixing = torch.zeros(1, len(rows), dtype=torch.float64, device=chosen.device)
        mixing[0, chosen] = 1 / count
        return mixing

    return Aggregator("multi_krum", choose, min_clients=2 * num_byzantine + 3)


@countermeasure("robust statistics", "indiscriminate availability")
@validate_settings
def bulyan(*, num_byzantine: NumByzantine = 1) -> Aggregator:
    """θ = n − 2f updates selected by repeated Krum; for each coordinate the mean of the θ − 2f values nearest to the
    median.

    Args:
        num_byzantine: f; at least 4 f + 3 clients are needed.

    Source: El Mhamdi et al. 2018, Section 4.
    """

    def choose(rows: PairwiseGeometry, weights: Tensor) -> Tensor:
        left = torch.arange(len(rows), device=rows.values.device)
        found = []
        for _ in range(len(rows) - 2 * num_byzantine):
            place = select_best(rows.distances[left][:, left], num_byzantine)
            found.append(left[place])
            left = torch.cat([left[:place], left[place + 1 :]])
        return torch.stack(found)

    def merge(part: Tensor) -> Tensor:
        return mean_around_median(len(part) - 2 * num_byzantine)(part)

    return Aggregator("bulyan", choose, merge, min_clients=4 * num_byzantine + 3)


def krum_scores(distances: Tensor, num_byzantine: int) -> Tensor:
    """Krum's score of each update: the sum of squared distances to its n − f − 2 nearest others (at least one), [n]."""
    return _sums(distances)[:, max(0, len(distances) - num_byzantine - 3)]


def select_best(distances: Tensor, num_byzantine: int) -> int:
    """Index of the best score. Ties, as between two updates that are each other's nearest, are broken by the next
    nearest neighbor and so on, so that the result does not depend on the order of clients."""
    left = torch.arange(len(distances), device=distances.device)
    for sums in _sums(distances)[:, max(0, len(distances) - num_byzantine - 3) :].t():
        own = sums[left]
        left = left[own <= own.min() * (1 + 1e-9)]
        if len(left) == 1:
            break
    return int(left[0])


def _sums(distances: Tensor) -> Tensor:
    """Sums of squared distances to the nearest other, the two nearest, and so on, [n, n − 1]; 0 for a single update."""
    others = distances.clone().fill_diagonal_(torch.inf)
    return others.sort(dim=1).values[:, :-1].cumsum(1) if len(distances) > 1 else distances.new_zeros(1, 1)
