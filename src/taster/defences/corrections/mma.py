"""MMA as a correcting defence: samples are moved to where their margin is greatest."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from taster.core.guard import Guard
from taster.defences.corrections.correction import Correction, LossDescent
from taster.perturbations.objectives import margin
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.settings import validate_settings


def _margin(logits: Tensor, y: Tensor, reference: Tensor) -> Tensor:
    return margin(logits, y)


@validate_settings
def mma_correction(
    *,
    epsilon: Annotated[float, Field(ge=0)] = 0.2,
    norm: Norm = "linf",
    steps: Annotated[int, Field(ge=1)] = 10,
    step_size: Annotated[float, Field(gt=0)] = 0.02,
) -> Guard:
    """Corrects every sample by steps that descend the logit margin.

        x̃ = argmin over x' in B(x, ε) of max over j ≠ y of fⱼ(x') − f_y(x')

    As with `taster.defences.corrections.trades`, that it is the reverse generation with this loss is our reading of Zhu et al.
    (their table calls it "MMD"). It is the margin itself and not MMA's soft one: cross-entropy is log(1 + exp) of
    that, so steps along signs would be those of `adversarial_training`.

    Args:
        epsilon: ε, in the units of the data.
        norm: of the ball.
        steps: PGD steps.
        step_size: of each, in the units of the data.

    Source: Ding et al. 2020, Section 2.3; as a correction in Zhu et al. 2023, Table 10.
    """
    return Guard(screens=[Correction("mma_correction", LossDescent(LpBall(norm, epsilon), steps, step_size, _margin))])
