"""Samples whose learning would harm trusted ones are dropped, or count for less."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taster.core.guard import Guard
from taster.core.types import Batch
from taster.defences.screens.score_screen import ScoreScreen, ScreenAction
from taster.scores.base import QuantileThreshold, split_in_half
from taster.scores.influence import FirstOrderInfluence
from taster.utils.settings import validate_settings


@validate_settings
def influence_screen(
    probe: Batch,
    *,
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.95,
    refit_every: Annotated[int, Field(ge=1)] = 5,
    action: ScreenAction = "drop",
) -> Guard:
    """Drops samples whose influence on trusted samples is worse than that of most clean ones.

        dropped where s(x) = −⟨∇ ℓ(x), ∇ L(probe)⟩ / ‖∇ L(probe)‖ > P, P the q-quantile of s over clean samples

    The gradient of the first half of the probe is the direction, the second half is what the threshold is estimated on.

    Args:
        probe: trusted samples.
        quantile: q.
        every: steps between estimates.
        action: "drop", or "weight" by exp(threshold − score).

    Source: influence-based sanitisation, after Seetharaman et al. 2021, to first order.
    """
    known, held_out = split_in_half(probe)
    score = FirstOrderInfluence(known, refit_every)
    return Guard(
        screens=[
            ScoreScreen("influence_screen", score, QuantileThreshold(score, held_out, quantile, refit_every), action)
        ]
    )
