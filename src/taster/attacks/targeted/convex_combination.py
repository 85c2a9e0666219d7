"""The convex combination of points that comes nearest to another point."""

from __future__ import annotations

import torch
from torch import Tensor


def project_to_simplex(values: Tensor) -> Tensor:
    """The nearest vectors of non-negative numbers with sum 1, by sorting.

    Args:
        values: [..., k].

    Source: Duchi et al. 2008, Figure 1.
    """
    ordered = values.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    counts = torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=values.dtype)
    kept = (ordered * counts > excess).sum(-1, keepdim=True).clamp_min(1)
    return (values - excess.gather(-1, kept - 1) / kept).clamp_min(0)


def convex_coefficients(
    points: Tensor, target: Tensor, *, start: Tensor | None = None, tolerance: float = 1e-6, max_steps: int = 500
) -> Tensor:
    """Coefficients c ≥ 0 with sum 1 that minimise ‖Σⱼ cⱼ pⱼ − t‖², for each of several problems.

    By accelerated projected gradients (Beck and Teboulle 2009, FISTA) with restarts, on the points' inner products
    alone. For f = ½ ‖Σⱼ cⱼ pⱼ − t‖² the gap max over simplex vertices of ⟨∇f, c − eⱼ⟩ bounds f − min f, and is what
    the tolerance is of.

    Args:
        points: p, [..., k, d].
        target: t, [..., d].
        start: coefficients to begin with, [..., k]. None: all equal.
        tolerance: the gap at which it ends, over ‖t‖² / 2.
        max_steps: the most steps, with which it ends whatever the gap.

    Returns:
        c, float64 [..., k].

    Source: the problem is the inner one of Zhu et al. 2019, Algorithm 1, who solve it by forward-backward splitting.
    """
    # As the sum is 1, nothing changes when all points move together; around their mean the problem is far better
    # conditioned.
    middle = points.detach().double().mean(-2)
    p, t = points.detach().double() - middle[..., None, :], target.detach().double() - middle
    products = p @ p.transpose(-1, -2)
    toward = (p @ t[..., None])[..., 0]
    allowed = tolerance * target.detach().double().square().sum(-1) / 2
    rate = 1 / torch.linalg.eigvalsh(products)[..., -1:].clamp_min(torch.finfo(p.dtype).tiny)
    c = torch.full_like(toward, 1 / toward.shape[-1]) if start is None else project_to_simplex(start.double())
    ahead, speed = c, torch.ones_like(rate)
    for _ in range(max_steps):
        slope = _slope(products, c, toward)
        if bool(((slope * c).sum(-1) - slope.amin(-1) <= allowed).all()):
            break
        moved = project_to_simplex(ahead - rate * _slope(products, ahead, toward))
        # Momentum that leads uphill is given up (O'Donoghue and Candès 2015).
        uphill = ((ahead - moved) * (moved - c)).sum(-1, keepdim=True) > 0
        faster = torch.where(uphill, torch.ones_like(speed), (1 + (1 + 4 * speed**2).sqrt()) / 2)
        ahead = moved + torch.where(uphill, torch.zeros_like(speed), (speed - 1) / faster) * (moved - c)
        c, speed = moved, faster
    return c


def _slope(products: Tensor, c: Tensor, toward: Tensor) -> Tensor:
    return (products @ c[..., None])[..., 0] - toward
