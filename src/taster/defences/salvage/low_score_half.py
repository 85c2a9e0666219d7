"""A batch that a gate rejected is tried again in part: the half with the lower scores, then half of that."""

from __future__ import annotations

from typing import Literal

import torch

from taster.core.batch import Batch
from taster.core.guard import ChecksModel, Guard, ScreenedBatch, UsesTrustedData
from taster.core.threat import countermeasure
from taster.core.trusted_data import check_trusted_data
from taster.core.view import View
from taster.scores.base import Score
from taster.scores.influence import FirstOrderInfluence
from taster.scores.registry import loss
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings

_PROBE_SAMPLES = 256
"""Samples of the probe whose gradient the influence is measured with."""

_NAME = "retry_low_score_half"


@countermeasure("sanitization", "indiscriminate availability", note="It sorts a batch that a test has refused.")
@validate_settings
def retry_low_score_half(
    probe: Batch, *, min_samples: PositiveCount = 16, score: Literal["loss", "influence"] = "loss"
) -> Guard:
    """When a gate has rejected a batch, tries the half of it with the lower scores, then half of that.

    It costs nothing until a batch is rejected, and then a score and a step for each part. A round of federated learning
    is rejected as a whole.

    Args:
        probe: trusted samples.
        min_samples: the smallest part that is tried.
        score: what makes a sample suspicious: its loss, or its influence on the loss of trusted samples
            (`taster.scores.influence.FirstOrderInfluence`), which says little once the model has converged, as the
            trusted samples' gradient is then that of a few of them.

    Source: taster's own.
    """
    check_trusted_data(probe, _NAME)
    chosen = loss() if score == "loss" else FirstOrderInfluence(probe.select(slice(_PROBE_SAMPLES)))
    return Guard(salvage=[LowScoreHalf(chosen, min_samples)])


class LowScoreHalf:
    """A salvaging screen that drops the half of a batch with the higher scores.

    Args:
        score: how suspicious each sample is; called for the present model, never informed of steps.
        min_samples: nothing is dropped if fewer would be left.
    """

    name = _NAME

    def __init__(self, score: Score, min_samples: int) -> None:
        self._score = score
        self._min_samples = min_samples

    def set_trusted_data(self, probe: Batch) -> None:
        """Passes the new samples on to the score, if it uses any."""
        if isinstance(self._score, UsesTrustedData):
            self._score.set_trusted_data(probe.select(slice(_PROBE_SAMPLES)))

    def check_model(self, view: View) -> None:
        """Checks that the model takes the trusted samples of the score, if it uses any."""
        if isinstance(self._score, ChecksModel):
            self._score.check_model(view)

    def __call__(self, admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        """The other half; clients' updates are left alone, as only samples have a score."""
        count = len(admitted.batch)
        if not isinstance(admitted.batch, Batch) or count // 2 < self._min_samples:
            return admitted
        # NaN counts as suspicious.
        scores = torch.nan_to_num(self._score(admitted.batch, view), nan=float("inf"))
        return admitted.drop(scores.argsort(stable=True).argsort() >= count // 2, "")
