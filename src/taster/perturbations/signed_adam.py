"""Adam on the sign of the gradient in the samples, with steps that fall, projected into a ball."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.perturbations.pgd import LpBall
from taster.perturbations.projected_adam import projected_adam

_DECAYS = (3 / 8, 5 / 8, 7 / 8)
"""Parts of the steps after which the step size falls to a tenth."""


def signed_adam(
    gradient: Callable[[Tensor], Tensor],
    clean: Tensor,
    ball: LpBall,
    *,
    steps: int,
    step_size: float,
    init: Tensor | None = None,
) -> Tensor:
    """Ascent by Adam that is given the sign of the gradient alone: every value moves, however flat the objective is in
    it, and where the sign changes from step to step it moves less.

    The step size falls to a tenth after 3/8, 5/8 and 7/8 of the steps.

    Args:
        gradient: computes the gradient of the objective at samples [n, ...].
        clean: center of the ball, [n, ...].
        ball: the budget.
        steps: how many.
        step_size: Adam's first learning rate, in the units of the data.
        init: initial samples. Default: `clean`.

    Returns:
        samples [n, ...], without a graph.

    Source: Geiping et al. 2021 (Witches' Brew).
    """
    return projected_adam(
        lambda x: torch.nan_to_num(gradient(x)).sign(),
        clean,
        ball,
        steps=steps,
        step_size=step_size,
        init=init,
        factor_at=_factor_at,
    )


def _factor_at(progress: float) -> float:
    return float(0.1 ** sum(progress >= part for part in _DECAYS))
