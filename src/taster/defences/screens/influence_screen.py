"""Samples whose learning would harm trusted ones are dropped, or weighted down."""

from __future__ import annotations

from taster.core.batch import Batch
from taster.core.guard import Guard
from taster.core.threat import countermeasure
from taster.defences.screens.score_screen import ScoreScreen, ScreenAction
from taster.scores.base import split_in_half
from taster.scores.influence import FirstOrderInfluence
from taster.scores.thresholds import QuantileThreshold
from taster.utils.setting_types import PositiveCount, Quantile
from taster.utils.settings import validate_settings


@countermeasure("sanitization", "indiscriminate availability")
@validate_settings
def influence_screen(
    probe: Batch, *, quantile: Quantile = 0.95, refit_every: PositiveCount = 5, action: ScreenAction = "drop"
) -> Guard:
    """Drops samples whose influence on trusted samples is worse than that of most clean samples.

        dropped if s(x) = −⟨∇ ℓ(x), ∇ L(probe)⟩ / ‖∇ L(probe)‖ > P, P the q-quantile of s over clean samples

    The gradient is of the first half of the probe; the threshold is estimated on the second half.

    Args:
        probe: trusted samples.
        quantile: q.
        refit_every: steps between estimates of the gradient and of P.
        action: "drop", or "weight" by exp(P − s).

    Source: influence-based sanitization, after Seetharaman et al. 2021, to first order.
    """
    known, held_out = split_in_half(probe)
    score = FirstOrderInfluence(known, refit_every)
    threshold = QuantileThreshold(score, held_out, quantile, refit_every)
    return Guard(screens=[ScoreScreen("influence_screen", score, threshold, action)])
