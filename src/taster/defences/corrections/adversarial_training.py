"""Adversarial training as a poisoning defence: every sample is moved to lower loss before it is learned."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taster.core.guard import Guard
from taster.defences.corrections.correction import Correction, LossDescent
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.settings import validate_settings


@validate_settings
def adversarial_training_correction(
    *,
    epsilon: Annotated[float, Field(ge=0)] = 0.2,
    norm: Norm = "linf",
    steps: Annotated[int, Field(ge=1)] = 10,
    step_size: Annotated[float, Field(gt=0)] = 0.02,
) -> Guard:
    """Corrects every sample by reverse adversarial generation: steps that descend its loss, within a ball.

        x̃ = argmin over B(x, ε) of L(x̃, y; θ_t)

    Args:
        epsilon: ε, in the units of the data.
        norm: of the ball.
        steps: PGD steps.
        step_size: of each, in the units of the data.

    Source: Tao et al. 2021; as "AT" in Zhu et al. 2023, Table 1, whose code's constants are the defaults.
    """
    return Guard(
        screens=[Correction("adversarial_training_correction", LossDescent(LpBall(norm, epsilon), steps, step_size))]
    )
