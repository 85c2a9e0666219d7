"""FAT as a correcting defence: a sample is moved no further than it takes to be classified rightly."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taster.core.guard import Guard
from taster.defences.corrections.correction import Correction, LossDescent
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.settings import validate_settings


@validate_settings
def fat_correction(
    *,
    patience: Annotated[int, Field(ge=0)] = 1,
    epsilon: Annotated[float, Field(ge=0)] = 0.2,
    norm: Norm = "linf",
    steps: Annotated[int, Field(ge=1)] = 10,
    step_size: Annotated[float, Field(gt=0)] = 0.02,
) -> Guard:
    """Corrects every sample, and stops each a few steps after the model classifies it rightly.

        x̃ ← proj(x̃ − α sign ∇ CE(f(x̃), y)), for at most τ steps more (and one at least) once argmax f(x̃) = y

    FAT stops its search for an adversarial sample τ steps after the model errs. In reverse it stops τ steps after the
    model is right; as with `taster.defences.corrections.trades`, this is our reading of Zhu et al.

    Args:
        patience: τ. The first step is made in any case.
        epsilon: ε, in the units of the data.
        norm: of the ball.
        steps: at most so many.
        step_size: of each, in the units of the data.

    Source: Zhang et al. 2020 ("Attacks which do not kill training make adversarial learning stronger"), Algorithm 1; as
        a correction in Zhu et al. 2023, Table 10.
    """
    return Guard(screens=[Correction("fat_correction", LossDescent(LpBall(norm, epsilon), steps, step_size), patience)])
