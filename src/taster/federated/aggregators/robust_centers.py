"""Iterative robust centers: geometric median and centered clipping."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.core.threat import countermeasure
from taster.federated.aggregators.aggregator import Aggregator
from taster.stats.pairwise import PairwiseGeometry, squared_distances
from taster.utils.settings import validate_settings

_NEAR = 1e-12
"""Relative change of the center at which Weiszfeld's algorithm stops."""
_FAR = 1e8
"""Distance, over that within which clients lie, from which on only a client's direction counts: half the digits of
float64, so that neither the direction nor the distances between the others lose more."""
_FEW = 4
"""Iterations of centered clipping up to which each reads the matrix once. With more, the Gram matrix (as expensive as a
dozen reads) is computed first, which also keeps float32 rounding from accumulating."""


@countermeasure("robust statistics", "indiscriminate availability")
@validate_settings
def geometric_median(*, max_iterations: Annotated[int, Field(ge=1)] = 1000) -> Aggregator:
    """The point that minimizes the weighted sum of distances to the updates.

        z ← Σ βᵢ vᵢ / Σ βᵢ, βᵢ = wᵢ / ‖vᵢ − z‖

    Iterates on the matrix of inner products, so that the updates are read twice, whatever the number of iterations. Of
    a client that is farther away than 10⁸ times the distance at which the others lie, only the direction counts, to
    which the pull of so distant a point is equal up to 10⁻⁸: however far it is, it costs no digits.

    Args:
        max_iterations: of Weiszfeld's algorithm.

    Source: Weiszfeld 1937; as an aggregation Chen et al. 2017 and Pillutla et al. 2022 ("RFA", Algorithm 2).
    """

    def choose(rows: PairwiseGeometry, weights: Tensor) -> Tensor:
        center, scale = _crowd(rows.distances)
        gram = rows.gram - rows.gram[center] - rows.gram[:, center, None] + rows.gram[center, center]
        away = gram.diagonal().clamp_min(0).sqrt()
        nearer = (_FAR * scale / away.clamp_min(torch.finfo(away.dtype).tiny)).clamp_max(1.0)
        apart = squared_distances(nearer[:, None] * gram * nearer)
        weights = weights.to(apart)
        z = weights / weights.sum()
        for _ in range(max_iterations if float(scale) else 0):
            # ‖vᵢ − Σ zⱼ vⱼ‖² from the distances between the v alone, as the zⱼ add up to 1.
            to_z = (apart @ z - 0.5 * (z @ apart @ z)).clamp_min(0).sqrt()
            own = weights / to_z.clamp_min(scale * 1e-9)
            new = own / own.sum()
            moved = -0.5 * ((new - z) @ apart @ (new - z))  # ‖Σ (newⱼ − zⱼ) vⱼ‖²
            z = new
            if float(moved) <= (_NEAR * float(scale)) ** 2:
                break
        z = z * nearer
        z[center] += 1 - z.sum()
        return z[None]

    return Aggregator("geometric_median", choose)


@countermeasure("robust statistics", "indiscriminate availability")
@validate_settings
def centered_clipping(
    *, clip_radius: Annotated[float, Field(gt=0)] = 1.0, iterations: Annotated[int, Field(ge=1)] = 3
) -> Aggregator:
    """The mean of the updates, each clipped to radius τ around the current center.

        v ← v + (1/n) Σ (vᵢ − v) · min(1, τ / ‖vᵢ − v‖), from v = 0

    Starts from 0 in each round, not from the last round's result, so that it is a pure function; the aggregate is no
    longer than iterations · τ.

    Args:
        clip_radius: τ.
        iterations: how many times the center is moved.

    Source: Karimireddy et al. 2021, Algorithm 2 ("centered clip").
    """

    def choose(rows: PairwiseGeometry, weights: Tensor) -> Tensor:
        if iterations > _FEW:
            rows.gram  # noqa: B018 (computed now, so that no inner product reads the matrix)
        z = torch.zeros_like(rows.squared_norms)
        for step in range(iterations):
            # Little is lost by cancellation where it matters, at distances above τ: the center is no longer than
            # step · τ, so that no term exceeds (2 · step + 1)² times the squared distance.
            own = rows.inner_products(z) if step else z
            to_z = (rows.squared_norms - 2 * own + z @ own).clamp_min(0).sqrt()
            shares = (clip_radius / to_z.clamp_min(torch.finfo(to_z.dtype).tiny)).clamp_max(1.0)
            z = z * (1 - shares.mean()) + shares / len(rows)
        return z[None]

    return Aggregator("centered_clipping", choose)


def _crowd(distances: Tensor) -> tuple[int, Tensor]:
    """The client around whom half of all lie nearest, and the distance within which they do: the least that is not 0
    where half are alike."""
    middle = distances.sort(dim=1).values[:, len(distances) // 2]
    center = int(middle.argmin())
    scale = middle[center]
    if not float(scale):
        others = distances[distances > 0]
        scale = others.min() if len(others) else scale
    return center, scale.sqrt()
