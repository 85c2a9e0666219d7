"""Ascent on samples within balls, each step a fixed length along a unit vector, halved while it does not help."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.perturbations.pgd import LpBall

Objective = Callable[[Tensor], tuple[float, Callable[[], Tensor]]]
"""Given samples [k, d], the objective's value and a function that computes its gradient [k, d]."""


def ascend(
    objective: Objective,
    start: Tensor,
    ball: LpBall,
    *,
    center: Tensor | None = None,
    iterations: int,
    step_size: float,
    tolerance: float = 0.0,
    halvings: int = 8,
) -> Tensor:
    """x ← proj(x + t u), u a unit vector along the gradient for each sample.

    t begins at `step_size`. It is halved while a step does not raise the objective by more than `tolerance`, and
    doubled after a step that did at once, up to `step_size`. The ascent ends after `halvings` halvings in a row.

    Args:
        objective: to be raised.
        start: first samples, [k, d], within the balls.
        ball: the budget, with the range of the data.
        center: of the balls, [k, d]. Default: `start`.
        iterations: steps at most; 0 returns `start`.
        step_size: the largest t, in the units of the data.
        tolerance: least gain of a step.
        halvings: of t in a row.

    Source: Biggio et al. 2012, Algorithm 1, with backtracking.
    """
    center = start if center is None else center
    x, size = start, step_size
    value, gradient = objective(x)
    for _ in range(iterations):
        along = _unit(_feasible(gradient(), x, ball))
        if not bool(along.any()):
            break
        for halved in range(halvings + 1):
            tried = ball.project(x + size * along, center)
            new_value, new_gradient = objective(tried)
            if new_value > value + tolerance:
                x, value, gradient = tried, new_value, new_gradient
                if halved == 0:
                    size = min(2 * size, step_size)
                break
            size /= 2
        else:
            break
    return x


def _feasible(gradient: Tensor, x: Tensor, ball: LpBall) -> Tensor:
    """Without the parts that lead out of the range of the data."""
    out = ((x <= ball.low) & (gradient < 0)) | ((x >= ball.high) & (gradient > 0))
    return torch.nan_to_num(gradient).masked_fill(out, 0.0)


def _unit(gradient: Tensor) -> Tensor:
    sizes = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    return torch.where(sizes > 0, gradient / sizes.clamp_min(torch.finfo(gradient.dtype).tiny), 0.0)
