"""Forward-backward splitting in the samples: descent of an objective that stays near to where it began."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.perturbations.pgd import LpBall

_GROW, _SHRINK = 1.2, 0.5
_EVERY = 10
"""Steps between two looks at whether the descent has converged."""

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of samples [n, ...]: a value for each [n], and its gradient in the sample [n, ...]."""


def forward_backward(
    objective: Objective,
    base: Tensor,
    ball: LpBall,
    *,
    weight: float,
    steps: int,
    step_size: float,
    init: Tensor | None = None,
    tolerance: float = 0.0,
) -> Tensor:
    """Descends f(x) + β ‖x − b‖² within a ball around b, sample by sample.

    A step goes down the gradient of f, x̂ = x − λ ∇f(x), and then to the minimum of ‖x − x̂‖² / 2λ + β ‖x − b‖²,
    which is (x̂ + 2λβ b) / (1 + 2λβ), projected: exact where the ball is a box, as "linf" is. A step after which the
    sum is not smaller is not made, and halves the sample's λ; others raise it by a fifth.

    Args:
        objective: f; of each sample alone.
        base: b, [n, ...].
        ball: around b.
        weight: β.
        steps: the maximum.
        step_size: λ of the first step.
        init: initial samples. Default: `base`.
        tolerance: the descent ends when ten steps have lowered no sample's sum by more than this share of it.

    Returns:
        samples [n, ...], without a graph.

    Source: the splitting as Shafahi et al. 2018, Algorithm 1, uses it (there with λβ in place of 2λβ, the minimum for
        β / 2); a step size that falls when the sum does not is in their supplement, for each sample here.
    """
    x = (base if init is None else ball.project(init, base)).detach()
    value, slope = objective(x)
    total = value + weight * _squared(x - base)
    size = torch.full_like(total, step_size)
    before = total
    for step in range(1, steps + 1):
        rate = size.reshape(-1, *[1] * (x.dim() - 1))
        forward = x - rate * torch.nan_to_num(slope)
        tried = ball.project((forward + 2 * weight * rate * base) / (1 + 2 * weight * rate), base)
        value, tried_slope = objective(tried)
        tried_total = value + weight * _squared(tried - base)
        better = tried_total < total
        chosen = better.reshape(rate.shape)
        x, slope = torch.where(chosen, tried, x), torch.where(chosen, tried_slope, slope)
        total = torch.where(better, tried_total, total)
        size = torch.where(better, size * _GROW, size * _SHRINK)
        if step % _EVERY == 0:
            if bool((before - total <= tolerance * before.abs()).all()):
                break
            before = total
    return x


def _squared(change: Tensor) -> Tensor:
    return change.flatten(1).square().sum(1)
