"""The scores that come with taster, by name. To add one, write it and name it here."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.core.types import Batch
from taster.core.view import View
from taster.scores.base import Score
from taster.scores.feature_detectors import DetectorName, FeatureAnomalyScore
from taster.scores.influence import FirstOrderInfluence
from taster.scores.memorization_discrepancy import Divergence, MemorizationDiscrepancy
from taster.utils.setting_types import ModelRef, PositiveCount, PositiveFloat
from taster.utils.settings import validate_settings


@validate_settings
def memorization_discrepancy(
    *, reference_model: ModelRef, divergence: Divergence = "kl", compared_model: ModelRef | None = None
) -> Score:
    """How far the prediction of a sample has moved since an earlier model.

    Args:
        reference_model: the earlier model, see `taster.scores.memorization_discrepancy.MemorizationDiscrepancy`.
        divergence: "kl" or "js".
        compared_model: the model compared with it; None is the present model.

    Source: Zhu et al. 2023, Eq. 5.
    """
    return MemorizationDiscrepancy(reference_model, divergence, compared_model)


@validate_settings
def anomaly(
    probe: Batch,
    *,
    detector: DetectorName = "gaussian",
    layer: str | None = None,
    bandwidth: PositiveFloat | None = None,
    neighbors: PositiveCount = 600,
    refit_every: PositiveCount = 10,
) -> Score:
    """How far a sample's features are from those of clean samples.

    Args:
        probe: clean samples that the detector is fitted to.
        detector: see `taster.scores.feature_detectors.FeatureAnomalyScore`.
        layer: the layer whose output is used; None takes the input of the last linear layer.
        bandwidth: of the kernel density; None takes the median distance within a class.
        neighbors: of the local intrinsic dimensionality.
        refit_every: steps between fits.

    Source: the detectors of Pang et al. 2021, Section 4.1 and Appendix B.
    """
    return FeatureAnomalyScore(
        detector, probe, layer=layer, bandwidth=bandwidth, neighbors=neighbors, refit_every=refit_every
    )


@validate_settings
def influence(probe: Batch, *, refit_every: PositiveCount = 5) -> Score:
    """What learning a sample would do to the loss on clean samples.

    Args:
        probe: clean samples.
        refit_every: steps between gradients of their loss.

    Source: Koh and Liang 2017, to first order; see `taster.scores.influence.FirstOrderInfluence`.
    """
    return FirstOrderInfluence(probe, refit_every)


@validate_settings
def loss() -> Score:
    """The learner's loss on a sample, by the present model.

    Source: what the loss alarm of Yang et al. 2017 watches; the left panel of Zhu et al. 2023, Fig. 1.
    """

    def score(batch: Batch, view: View) -> Tensor:
        with torch.no_grad():
            return view.sample_losses(batch)

    return score


SCORES = {score.__name__: score for score in (memorization_discrepancy, anomaly, influence, loss)}
