"""Samples whose learning would harm trusted ones are dropped, or count for less."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taster.core.guard import Guard
from taster.core.types import Batch
from taster.defences.screens.score_screen import Action, ScoreScreen
from taster.scores.base import CleanQuantile, halves
from taster.scores.influence import Influence
from taster.utils.settings import checked


@checked
def influence_screen(
    probe: Batch,
    *,
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.95,
    every: Annotated[int, Field(ge=1)] = 5,
    action: Action = "drop",
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
    known, held_out = halves(probe)
    score = Influence(known, every)
    return Guard(
        screens=[ScoreScreen("influence_screen", score, CleanQuantile(score, held_out, quantile, every), action)]
    )
