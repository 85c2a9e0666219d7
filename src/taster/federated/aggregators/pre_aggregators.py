"""Pre-aggregation: nearest-neighbor mixing and clipping, followed by another rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.core.threat import countermeasure
from taster.federated.aggregators.aggregator import Aggregator, RowWeights
from taster.federated.aggregators.coordinate_wise import NumByzantine, coordinate_median, trimmed_mean
from taster.federated.aggregators.krum import bulyan, krum, multi_krum
from taster.federated.aggregators.robust_centers import geometric_median
from taster.perturbations.pgd import Norm
from taster.stats.pairwise import PairwiseGeometry
from taster.utils.settings import validate_settings

AfterMixing = Literal["mean", "coordinate_median", "trimmed_mean", "krum", "multi_krum", "bulyan", "geometric_median"]


def weighted_mean() -> Aggregator:
    """The mean Σ wₙ vₙ / Σ wₙ with the weights that clients claim, as an `Aggregator`.

    Source: McMahan et al. 2017, Algorithm 1.
    """

    def choose(rows: PairwiseGeometry, weights: Tensor) -> Tensor:
        return (weights / weights.sum()).double()[None]

    return Aggregator("mean", choose)


@countermeasure("robust statistics", "indiscriminate availability")
@validate_settings
def nearest_neighbor_mixing(
    *, num_byzantine: NumByzantine = 1, aggregator: AfterMixing = "coordinate_median"
) -> Aggregator:
    """Each update is replaced by the mean of its n − f nearest, itself included; then another rule is applied.

    Args:
        num_byzantine: f, of the mixing and of that rule.
        aggregator: the rule that follows.

    Source: Allouah et al. 2023, Algorithm 2 ("NNM").
    """
    return _rule(aggregator, num_byzantine).preceded_by(nearest_neighbor_weights(num_byzantine))


@countermeasure("robust statistics", "indiscriminate availability")
@validate_settings
def update_clipping(
    *,
    max_norm: Annotated[float, Field(gt=0)] = 1.0,
    norm: Norm = "l2",
    aggregator: AfterMixing = "mean",
    num_byzantine: NumByzantine = 1,
) -> Aggregator:
    """Each update is scaled down to norm η where it exceeds it; then another rule is applied.

        vₙ ← vₙ · min(1, η / ‖vₙ‖)

    Args:
        max_norm: η.
        norm: "l2", or "linf" for the largest absolute value.
        aggregator: the rule that follows.
        num_byzantine: f of that rule, if it has one.

    Source: the threat model of Pang et al. 2021, Appendix C.3; Sun et al. 2019 ("norm thresholding").
    """
    return _rule(aggregator, num_byzantine).preceded_by(clipping_weights(max_norm, norm))


def nearest_neighbor_weights(num_byzantine: int) -> RowWeights:
    """The pre-aggregator of `nearest_neighbor_mixing`."""

    def step(rows: PairwiseGeometry, weights: Tensor) -> Tensor:
        count = max(1, len(rows) - num_byzantine)
        nearest = rows.distances.argsort(dim=1, stable=True)[:, :count]
        mixing = torch.zeros_like(rows.distances)
        return mixing.scatter_(1, nearest, 1 / count)

    return step


def clipping_weights(max_norm: float, norm: Norm) -> RowWeights:
    """The pre-aggregator of `update_clipping`."""

    def step(rows: PairwiseGeometry, weights: Tensor) -> Tensor:
        norms = rows.norms(norm)
        return torch.diag((max_norm / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1.0))

    return step


def _rule(name: AfterMixing, num_byzantine: int) -> Aggregator:
    with_count: dict[str, Callable[..., Aggregator]] = {
        "trimmed_mean": trimmed_mean,
        "krum": krum,
        "multi_krum": multi_krum,
        "bulyan": bulyan,
    }
    if name in with_count:
        return with_count[name](num_byzantine=num_byzantine)
    plain = {"mean": weighted_mean, "coordinate_median": coordinate_median, "geometric_median": geometric_median}
    return plain[name]()
