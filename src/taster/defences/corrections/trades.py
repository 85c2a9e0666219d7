"""TRADES as a correcting defence: lower loss without leaving the prediction that the sample came with."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taster.core.guard import Guard
from taster.defences.corrections.correction import Correction, LossDescent
from taster.perturbations.objectives import trades_loss
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.settings import validate_settings


@validate_settings
def trades_correction(
    *,
    kl_weight: Annotated[float, Field(ge=0)] = 6.0,
    epsilon: Annotated[float, Field(ge=0)] = 0.2,
    norm: Norm = "linf",
    steps: Annotated[int, Field(ge=1)] = 10,
    step_size: Annotated[float, Field(gt=0)] = 0.02,
) -> Guard:
    """Corrects every sample by steps that descend the loss of TRADES.

        x̃ = argmin over x' in B(x, ε) of CE(f(x'), y) + β KL(f(x) ‖ f(x'))

    TRADES takes the cross-entropy of the clean sample, which here nobody has; of the moved one, it is what is lowered.
    Zhu et al. compare with it as a sample correction and do not say how they made one of it: here it is the reverse
    generation of `adversarial_training` with the loss of TRADES in the place of cross-entropy.

    Args:
        weight: β; 6 as in TRADES.
        epsilon: ε, in the units of the data.
        norm: of the ball.
        steps: PGD steps.
        step_size: of each, in the units of the data.

    Source: Zhang et al. 2019, Eq. 5; as a correction in Zhu et al. 2023, Table 10.
    """
    return Guard(
        screens=[
            Correction(
                "trades_correction", LossDescent(LpBall(norm, epsilon), steps, step_size, trades_loss(kl_weight))
            )
        ]
    )
