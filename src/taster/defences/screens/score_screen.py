"""Any score as a screen: samples above a threshold are dropped, or weighted down."""

from __future__ import annotations

from typing import Literal

import torch

from taster.core.batch import Batch
from taster.core.guard import ScreenedBatch
from taster.core.view import View
from taster.defences.screens.score_threshold import ScoreThresholdStage
from taster.scores.base import Score
from taster.scores.thresholds import Threshold

ScreenAction = Literal["drop", "weight"]


class ScoreScreen(ScoreThresholdStage):
    """Drops samples whose score s is above the threshold P, or weights them by exp(P − s).

    Args:
        name: the name in records.
        score: how suspicious each sample is.
        threshold: P.
        action: "drop" or "weight".
    """

    def __init__(self, name: str, score: Score, threshold: Threshold, action: ScreenAction = "drop") -> None:
        super().__init__(score, threshold)
        self.name = name
        self.action: ScreenAction = action

    def __call__(self, admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        """The batch without suspicious samples, or with their weights lowered."""
        scores, bound = self.score(admitted.batch, view), self.threshold(view)
        above = ~(scores <= bound)  # NaN counts as suspicious
        if self.action == "drop":
            return admitted.drop(above, f"every sample's score was over {bound:.3g}") if bool(above.any()) else admitted
        return admitted.weight(torch.nan_to_num(torch.exp(bound - scores).clamp_max(1.0)))
