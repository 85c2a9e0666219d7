"""MART as a correcting defence: most for the samples that the model is in doubt about."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taster.core.guard import Guard
from taster.defences.corrections.correction import Correction, LossDescent
from taster.perturbations.objectives import mart_loss
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.settings import validate_settings


@validate_settings
def mart_correction(
    *,
    kl_weight: Annotated[float, Field(ge=0)] = 5.0,
    epsilon: Annotated[float, Field(ge=0)] = 0.2,
    norm: Norm = "linf",
    steps: Annotated[int, Field(ge=1)] = 10,
    step_size: Annotated[float, Field(gt=0)] = 0.02,
) -> Guard:
    """Corrects every sample by steps that descend the loss of MART.

        x̃ = argmin over x' in B(x, ε) of BCE(f(x'), y) + λ KL(f(x) ‖ f(x')) · (1 − p_y(x))

    As with `taster.defences.corrections.trades`, that it is the reverse generation with this loss is our reading of Zhu et al.

    Args:
        weight: λ; 5 as in MART.
        epsilon: ε, in the units of the data.
        norm: of the ball.
        steps: PGD steps.
        step_size: of each, in the units of the data.

    Source: Wang et al. 2020, Eq. 10; as a correction in Zhu et al. 2023, Table 10.
    """
    return Guard(
        screens=[
            Correction("mart_correction", LossDescent(LpBall(norm, epsilon), steps, step_size, mart_loss(kl_weight)))
        ]
    )
