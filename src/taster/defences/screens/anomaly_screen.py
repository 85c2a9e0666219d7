"""Samples whose features are unlike those of clean samples are dropped, count for less, or are corrected."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taster.core.guard import Guard
from taster.core.types import Batch
from taster.defences.corrections.correction import LossDescent, ThresholdCorrection
from taster.defences.screens.score_screen import ScoreScreen, ScreenAction
from taster.perturbations.pgd import LpBall, Norm
from taster.scores.base import QuantileThreshold, split_in_half
from taster.scores.feature_detectors import DetectorName, FeatureAnomalyScore
from taster.utils.settings import validate_settings


@validate_settings
def anomaly_screen(
    probe: Batch,
    *,
    detector: DetectorName = "gaussian",
    layer: str | None = None,
    bandwidth: Annotated[float, Field(gt=0)] | None = None,
    neighbors: Annotated[int, Field(ge=1)] = 600,
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.95,
    refit_every: Annotated[int, Field(ge=1)] = 10,
    action: ScreenAction | Literal["correct"] = "drop",
    epsilon: Annotated[float, Field(ge=0)] = 0.2,
    norm: Norm = "linf",
    steps: Annotated[int, Field(ge=1)] = 10,
    step_size: Annotated[float, Field(gt=0)] = 0.02,
) -> Guard:
    """Drops samples that a detector finds anomalous, weights them down, or corrects them.

        dropped where s(x) > P, P the q-quantile of s over clean samples

    The first half of the probe is what the detector is fitted to, the second what its threshold is estimated on.

    Args:
        probe: trusted samples.
        kind: of the detector, see `taster.scores.feature_detectors.FeatureAnomalyScore`.
        layer: whose output is looked at; None is what goes into the last linear layer.
        bandwidth: of the kernel density; None takes the median distance within a class.
        neighbours: of the local intrinsic dimensionality.
        quantile: of the probe's scores, from where on a score is anomalous.
        every: steps between fits.
        action: "drop", "weight" by exp(threshold − score), or "correct": down the sample's loss for as long as its
            score is above the threshold, as `taster.defences.corrections.dsc` does by Memorization Discrepancy.
        epsilon: of a correction, in the units of the data.
        norm: of its ball.
        steps: of it at most.
        step_size: of each, in the units of the data.

    Source: the detectors of Pang et al. 2021, Section 4.1 and Appendix B, which measure and do not defend there.
    """
    fitted, held_out = split_in_half(probe)
    detector = FeatureAnomalyScore(
        detector, fitted, layer=layer, bandwidth=bandwidth, neighbors=neighbors, refit_every=refit_every
    )
    threshold = QuantileThreshold(detector, held_out, quantile, refit_every)
    if action != "correct":
        return Guard(screens=[ScoreScreen("anomaly_screen", detector, threshold, action)])
    descent = LossDescent(LpBall(norm, epsilon), steps, step_size)
    return Guard(screens=[ThresholdCorrection("anomaly_screen", descent, detector, threshold)])
