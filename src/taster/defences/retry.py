"""What is honest in a batch that was refused: its less suspicious half, or half of that."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from taster.core.guard import Guard, ScreenedBatch, UsesTrustedData
from taster.core.types import Batch
from taster.core.view import View
from taster.scores.base import Score
from taster.scores.influence import FirstOrderInfluence
from taster.scores.registry import loss
from taster.utils.settings import validate_settings

_ASKED = 256
"""Samples of the probe whose gradient influence is measured by."""


@validate_settings
def retry_low_score_half(
    probe: Batch, *, min_samples: Annotated[int, Field(ge=1)] = 16, score: Literal["loss", "influence"] = "loss"
) -> Guard:
    """Where a gate has rejected a batch, its less suspicious half is tried, then half of that.

    It costs nothing until a batch is rejected: a score, and a step for each part tried. A round of federated learning
    is rejected as a whole.

    Args:
        probe: trusted samples.
        least: no part smaller than this is tried.
        by: what makes a sample suspicious: its loss, or its influence on the loss of trusted samples
            (`taster.scores.influence.FirstOrderInfluence`), which says little where the model has converged and their gradient is that
            of a few of them.

    Source: taster's own.
    """
    score = loss() if score == "loss" else FirstOrderInfluence(probe.select(slice(_ASKED)))
    return Guard(salvage=[LowScoreHalf(score, min_samples)])


class LowScoreHalf:
    """Drops the half of a batch that scores higher.

    Args:
        score: how suspicious each sample is; asked as it is, not told of steps.
        least: it drops nothing where fewer would be left.
    """

    name = "retry_low_score_half"

    def __init__(self, score: Score, least: int) -> None:
        self._score = score
        self._least = least

    def set_trusted_data(self, probe: Batch) -> None:
        """Passes other trusted samples on, where the score wants any."""
        if isinstance(self._score, UsesTrustedData):
            self._score.set_trusted_data(probe.select(slice(_ASKED)))

    def __call__(self, admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        """The other half; of clients' updates nothing, as it takes samples to have a loss."""
        count = len(admitted.batch)
        if not isinstance(admitted.batch, Batch) or count // 2 < self._least:
            return admitted
        # What is not a number is suspicious.
        scores = torch.nan_to_num(self._score(admitted.batch, view), nan=float("inf"))
        return admitted.drop(scores.argsort(stable=True).argsort() >= count // 2, "")
