"""Discrepancy-aware Sample Correction: only samples that the past model finds strange are moved, and no further than
needed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taster.core.guard import Guard
from taster.core.types import Batch
from taster.defences.corrections.correction import Granularity, LossDescent, ThresholdCorrection
from taster.perturbations.pgd import LpBall, Norm
from taster.scores.base import make_threshold
from taster.scores.memorization_discrepancy import Divergence, MemorizationDiscrepancy
from taster.utils.settings import validate_settings


@validate_settings
def dsc(
    probe: Batch,
    *,
    reference_model: str | Annotated[int, Field(ge=1)],
    divergence: Divergence = "kl",
    threshold: float | None = None,
    threshold_growth: float = 0.0,
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.75,
    refit_every: Annotated[int, Field(ge=1)] = 10,
    granularity: Granularity = "sample",
    epsilon: Annotated[float, Field(ge=0)] = 0.2,
    norm: Norm = "linf",
    steps: Annotated[int, Field(ge=1)] = 10,
    step_size: Annotated[float, Field(gt=0)] = 0.02,
) -> Guard:
    """Moves a sample down its loss while its Memorization Discrepancy exceeds a threshold.

        x̃ = argmin over B(x, ε) of L(x̃, y; θ_t), stopped as soon as D(x̃; θ_{t−k}, θ_t) ≤ P

    Args:
        probe: trusted samples, which the threshold is estimated on.
        against: the earlier model; see `taster.scores.memorization_discrepancy.MemorizationDiscrepancy`.
        divergence: "kl" or "js".
        threshold: P₀ of P = P₀ + Δ·m after m steps; None estimates P on the probe, see `taster.scores.base.QuantileThreshold`.
        growth: Δ.
        quantile: of the probe's discrepancies, for an estimated P. The default corrects a quarter of clean samples, as
            Zhu et al. report (Table 12: 28 and 24 %).
        every: steps between estimates.
        granularity: "sample" stops each by itself; "batch" all at once by their mean, as the authors' code does.
        epsilon: ε, in the units of the data.
        norm: of the ball.
        steps: at most so many.
        step_size: of each, in the units of the data.

    Source: Zhu et al. 2023, Eq. 6 and Algorithm 1.
    """
    score = MemorizationDiscrepancy(reference_model, divergence)
    bound = make_threshold(score, probe, threshold, threshold_growth, quantile, refit_every)
    descent = LossDescent(LpBall(norm, epsilon), steps, step_size)
    return Guard(screens=[ThresholdCorrection("dsc", descent, score, bound, granularity)])
