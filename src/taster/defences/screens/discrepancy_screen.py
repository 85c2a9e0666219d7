"""Samples on which the model disagrees with its past are dropped, or weighted down."""

from __future__ import annotations

from taster.core.batch import Batch
from taster.core.guard import Guard
from taster.core.threat import countermeasure
from taster.defences.screens.score_screen import ScoreScreen, ScreenAction
from taster.scores.memorization_discrepancy import Divergence, MemorizationDiscrepancy
from taster.scores.thresholds import make_threshold
from taster.utils.setting_types import ModelRef, PositiveCount, Quantile
from taster.utils.settings import validate_settings


@countermeasure("sanitization", "indiscriminate availability")
@validate_settings
def discrepancy_screen(
    probe: Batch,
    *,
    reference_model: ModelRef,
    divergence: Divergence = "kl",
    threshold: float | None = None,
    threshold_growth: float = 0.0,
    quantile: Quantile = 0.95,
    refit_every: PositiveCount = 10,
    action: ScreenAction = "drop",
) -> Guard:
    """Drops samples whose Memorization Discrepancy exceeds a threshold, or weights them down.

    Args:
        probe: trusted samples, on which the threshold is estimated.
        reference_model: the earlier model, see `taster.scores.memorization_discrepancy.MemorizationDiscrepancy`.
        divergence: "kl" or "js".
        threshold: P₀ of P = P₀ + Δ·m after m steps; None estimates P, see `taster.scores.thresholds.QuantileThreshold`.
        threshold_growth: Δ.
        quantile: of the probe's discrepancies, for an estimated P.
        refit_every: steps between estimates.
        action: "drop", or "weight" by exp(P − discrepancy).

    Source: the score is of Zhu et al. 2023, Eq. 5; their defence corrects instead (`dsc`).
    """
    score = MemorizationDiscrepancy(reference_model, divergence)
    bound = make_threshold(score, probe, threshold, threshold_growth, quantile, refit_every)
    return Guard(screens=[ScoreScreen("discrepancy_screen", score, bound, action)])
