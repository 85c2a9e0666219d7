"""Samples whose features are far from those of clean samples are dropped, or weighted down."""

from __future__ import annotations

from taster.core.batch import Batch
from taster.core.guard import Guard
from taster.core.threat import countermeasure
from taster.defences.screens.score_screen import ScoreScreen, ScreenAction
from taster.scores.base import split_in_half
from taster.scores.feature_detectors import DetectorName, FeatureAnomalyScore
from taster.scores.thresholds import QuantileThreshold
from taster.utils.setting_types import PositiveCount, PositiveFloat, Quantile
from taster.utils.settings import validate_settings


@countermeasure("sanitization", "indiscriminate availability")
@validate_settings
def anomaly_screen(
    probe: Batch,
    *,
    detector: DetectorName = "gaussian",
    layer: str | None = None,
    bandwidth: PositiveFloat | None = None,
    neighbors: PositiveCount = 600,
    quantile: Quantile = 0.95,
    refit_every: PositiveCount = 10,
    action: ScreenAction = "drop",
) -> Guard:
    """Drops samples that a detector on the model's features finds anomalous, or weights them down.

        dropped if s(x) > P, P the q-quantile of s over clean samples

    The detector is fitted to the first half of the probe; the threshold is estimated on the second half.

    Args:
        probe: trusted samples.
        detector: see `taster.scores.feature_detectors.FeatureAnomalyScore`.
        layer: the layer whose output is used; None takes the input of the last linear layer.
        bandwidth: of the kernel density; None takes the median distance within a class.
        neighbors: of the local intrinsic dimensionality.
        quantile: q.
        refit_every: steps between fits.
        action: "drop", or "weight" by exp(P − s).

    Source: the detectors of Pang et al. 2021, Section 4.1 and Appendix B, which measure and do not defend there.
    """
    fitted, held_out = split_in_half(probe)
    score = FeatureAnomalyScore(
        detector, fitted, layer=layer, bandwidth=bandwidth, neighbors=neighbors, refit_every=refit_every
    )
    threshold = QuantileThreshold(score, held_out, quantile, refit_every)
    return Guard(screens=[ScoreScreen("anomaly_screen", score, threshold, action)])
