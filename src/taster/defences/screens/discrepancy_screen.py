"""Samples that the past model finds strange are dropped, or count for less."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taster.core.guard import Guard
from taster.core.types import Batch
from taster.defences.screens.score_screen import ScoreScreen, ScreenAction
from taster.scores.base import make_threshold
from taster.scores.memorization_discrepancy import Divergence, MemorizationDiscrepancy
from taster.utils.settings import validate_settings


@validate_settings
def discrepancy_screen(
    probe: Batch,
    *,
    reference_model: str | Annotated[int, Field(ge=1)],
    divergence: Divergence = "kl",
    threshold: float | None = None,
    threshold_growth: float = 0.0,
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.95,
    refit_every: Annotated[int, Field(ge=1)] = 10,
    action: ScreenAction = "drop",
) -> Guard:
    """Drops samples whose Memorization Discrepancy exceeds a threshold, or weights them down.

    Args:
        probe: trusted samples, which the threshold is estimated on.
        against: the earlier model; see `taster.scores.memorization_discrepancy.MemorizationDiscrepancy`.
        divergence: "kl" or "js".
        threshold: P₀ of P = P₀ + Δ·m after m steps; None estimates P on the probe, see `taster.scores.base.QuantileThreshold`.
        growth: Δ.
        quantile: of the probe's discrepancies, for an estimated P.
        every: steps between estimates.
        action: "drop", or "weight" by exp(P − discrepancy).

    Source: the measure is of Zhu et al. 2023, Eq. 5; their defence corrects instead (`dsc`).
    """
    score = MemorizationDiscrepancy(reference_model, divergence)
    bound = make_threshold(score, probe, threshold, threshold_growth, quantile, refit_every)
    return Guard(screens=[ScoreScreen("discrepancy_screen", score, bound, action)])
