"""Discrepancy-aware Sample Correction: moves only samples on which the model disagrees with its past, and no further
than needed."""

from __future__ import annotations

from taster.core.batch import Batch
from taster.core.guard import Guard
from taster.core.threat import countermeasure
from taster.defences.corrections.loss_descent import Granularity, LossDescent, ThresholdCorrection
from taster.perturbations.pgd import LpBall, Norm
from taster.scores.memorization_discrepancy import Divergence, MemorizationDiscrepancy
from taster.scores.thresholds import make_threshold
from taster.utils.setting_types import ModelRef, NonNegative, PositiveCount, PositiveFloat, Quantile
from taster.utils.settings import validate_settings


@countermeasure("sanitization", "indiscriminate availability", note="It changes samples and removes none.")
@validate_settings
def dsc(
    probe: Batch,
    *,
    reference_model: ModelRef,
    divergence: Divergence = "kl",
    threshold: float | None = None,
    threshold_growth: float = 0.0,
    quantile: Quantile = 0.75,
    refit_every: PositiveCount = 10,
    granularity: Granularity = "sample",
    epsilon: NonNegative = 0.2,
    norm: Norm = "linf",
    steps: PositiveCount = 10,
    step_size: PositiveFloat = 0.02,
) -> Guard:
    """Moves a sample down its loss while its Memorization Discrepancy exceeds a threshold.

        x̃ = argmin over B(x, ε) of L(x̃, y; θ_t), stopped as soon as D(x̃; θ_{t−k}, θ_t) ≤ P

    Args:
        probe: trusted samples, on which the threshold is estimated.
        reference_model: the earlier model, see `taster.scores.memorization_discrepancy.MemorizationDiscrepancy`.
        divergence: "kl" or "js".
        threshold: P₀ of P = P₀ + Δ·m after m steps; None estimates P, see `taster.scores.thresholds.QuantileThreshold`.
        threshold_growth: Δ.
        quantile: of the probe's discrepancies, for an estimated P. The default corrects a quarter of clean samples, as
            Zhu et al. report (Table 12: 28 and 24 %).
        refit_every: steps between estimates.
        granularity: "sample" stops each sample by its own score; "batch" all by their mean, as the authors' code does.
        epsilon: ε, in the units of the data.
        norm: of the ball.
        steps: the maximum number of steps.
        step_size: of each, in the units of the data.

    Source: Zhu et al. 2023, Eq. 6 and Algorithm 1.
    """
    score = MemorizationDiscrepancy(reference_model, divergence)
    bound = make_threshold(score, probe, threshold, threshold_growth, quantile, refit_every)
    descent = LossDescent(LpBall(norm, epsilon), steps, step_size)
    return Guard(screens=[ThresholdCorrection("dsc", descent, score, bound, granularity)])
