"""Samples whose features are unlike those of clean samples are dropped, or count for less."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taster.defences.screening import Action, ScoreScreen
from taster.detectors import Detector, Kind
from taster.guard import Guard
from taster.score import CleanQuantile
from taster.settings import checked
from taster.types import Batch


@checked
def anomaly_screen(
    probe: Batch,
    *,
    kind: Kind = "gaussian",
    layer: str | None = None,
    bandwidth: Annotated[float, Field(gt=0)] | None = None,
    neighbours: Annotated[int, Field(ge=1)] = 600,
    quantile: Annotated[float, Field(ge=0, le=1)] = 0.95,
    every: Annotated[int, Field(ge=1)] = 10,
    action: Action = "drop",
) -> Guard:
    """Drops samples that a detector finds anomalous, or weights them down.

    The first half of the probe is what the detector is fitted to, the second what its threshold is estimated on.

    Args:
        probe: trusted samples.
        kind: of the detector, see `taster.detectors.Detector`.
        layer: whose output is looked at; None is what goes into the last linear layer.
        bandwidth: of the kernel density; None takes the median distance within a class.
        neighbours: of the local intrinsic dimensionality.
        quantile: of the probe's scores, from where on a score is anomalous.
        every: steps between fits.
        action: "drop", or "weight" by exp(threshold − score).

    Source: the detectors of Pang et al. 2021, Section 4.1 and Appendix B, which measure and do not defend there.
    """
    half = max(len(probe) // 2, 1)
    fitted, held_out = Batch(probe.x[:half], probe.y[:half]), Batch(probe.x[-half:], probe.y[-half:])
    detector = Detector(kind, fitted, layer=layer, bandwidth=bandwidth, neighbours=neighbours, every=every)
    threshold = CleanQuantile(detector, held_out, quantile, every)
    return Guard(screens=[ScoreScreen("anomaly_screen", detector, threshold, action)])
