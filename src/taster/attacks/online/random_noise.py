"""Random noise: the control that every poisoning attack has to beat."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from taster.attacks.online_attack import Budget, OnlineAttack
from taster.core.types import Batch
from taster.core.view import View
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.settings import validate_settings


@validate_settings
def random_noise(
    generator: torch.Generator,
    *,
    epsilon: Annotated[float, Field(ge=0)] = 8 / 255,
    norm: Norm = "linf",
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
) -> OnlineAttack:
    """Noise of ±ε on the samples an attack would poison, in the stream and in the trigger.

    Args:
        generator: draws the noise and which samples get it.
        epsilon: ε, in the units of the data.
        norm: "linf" draws ±ε for each value, "l2" a random direction of length ε for each sample.
        poison_fraction: share of a batch that is touched.

    Source: control of Pang et al. 2021, Fig. 2.
    """
    budget = Budget(LpBall(norm, epsilon), poison_fraction)

    def attack(clean: Batch, view: View) -> Batch:
        x = clean.x.clone()
        chosen = budget.draw_mask(len(clean), generator)
        x[chosen] = budget.ball.random_boundary(clean.x[chosen], generator)
        return Batch(x, clean.y)

    return OnlineAttack(budget, accumulate=attack, trigger=attack)
