"""Adam in the samples, projected into a ball."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.perturbations.pgd import LpBall


def projected_adam(
    gradient: Callable[[Tensor], Tensor | None],
    clean: Tensor,
    ball: LpBall,
    *,
    steps: int,
    step_size: float,
    init: Tensor | None = None,
    factor_at: Callable[[float], float] | None = None,
) -> Tensor:
    """Gradient ascent by Adam (Kingma and Ba 2015), projected after every step.

    Adam's steps shrink where gradients change their sign, which those of `taster.perturbations.pgd.pgd` along the sign
    do not, so that objectives such as distances can be brought close to their optimum.

    Args:
        gradient: computes the gradient of the objective at samples [n, ...]; None ends the ascent.
        clean: center of the ball, [n, ...].
        ball: the budget.
        steps: the maximum.
        step_size: Adam's learning rate, in the units of the data.
        init: initial samples. Default: `clean`.
        factor_at: of the step size, after a part of the steps, from 0 to 1. Default: 1.

    Returns:
        samples [n, ...], without a graph.
    """
    x = (clean if init is None else ball.project(init, clean)).detach().clone()
    optimizer = torch.optim.Adam([x], lr=step_size, maximize=True)
    for step in range(steps):
        slope = gradient(x.clone())
        if slope is None:
            break
        x.grad = torch.nan_to_num(slope)
        if factor_at is not None:
            optimizer.param_groups[0]["lr"] = step_size * factor_at(step / steps)
        optimizer.step()
        x.copy_(ball.project(x, clean))
    x.grad = None
    return x
