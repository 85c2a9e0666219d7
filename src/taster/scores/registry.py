"""The scores that come with taster, by name. To add one, write it and name it here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.core.batch import Batch, check_tensors
from taster.core.view import View
from taster.scores.activation_clustering import activation_clusters
from taster.scores.base import Score
from taster.scores.feature_detectors import DetectorName, FeatureAnomalyScore
from taster.scores.influence import FirstOrderInfluence
from taster.scores.loss_isolation import LossIsolation
from taster.scores.memorization_discrepancy import Divergence, MemorizationDiscrepancy
from taster.scores.perturbation_consistency import PerturbationConsistency
from taster.scores.spectral_signature import spectral_signatures
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


@validate_settings
def loss_isolation(*, reference_model: ModelRef | None = None) -> Score:
    """How low the loss on a sample is, or how far it has fallen since an earlier model.

    Args:
        reference_model: the earlier model, see `taster.scores.loss_isolation.LossIsolation`; None for the loss alone.

    Source: Li et al. 2021 (anti-backdoor learning).
    """
    return LossIsolation(reference_model)


@validate_settings
def spectral_signature(*, layer: str | None = None) -> Score:
    """How far a sample goes along the direction in which the features of its label vary most, within the batch.

    Args:
        layer: the layer whose output is used; None takes the input of the last linear layer.

    Source: Tran et al. 2018; see `taster.scores.spectral_signature.spectral_signatures`.
    """
    return _of_features("spectral_signature", spectral_signatures, layer)


@validate_settings
def activation_clustering(*, layer: str | None = None) -> Score:
    """Whether a sample is in the smaller of the two clusters of its label's features, within the batch.

    Args:
        layer: the layer whose output is used; None takes the input of the last linear layer.

    Source: Chen et al. 2018; see `taster.scores.activation_clustering.activation_clusters`.
    """
    return _of_features("activation_clustering", activation_clusters, layer)


@validate_settings
def perturbation_consistency(probe: Batch, *, overlays: PositiveCount = 10) -> Score:
    """How sure the prediction of a sample stays when clean samples are blended in.

    Args:
        probe: clean samples.
        overlays: how many of them are blended in, one by one.

    Source: Gao et al. 2019 (STRIP); see `taster.scores.perturbation_consistency.PerturbationConsistency`.
    """
    return PerturbationConsistency(probe.select(slice(overlays)))


def _of_features(name: str, measure: Callable[[Tensor, Tensor], Tensor], layer: str | None) -> Score:
    """A score from the features [n, d] and labels [n] of a batch, each sample's beside the others'."""

    def score(batch: Batch, view: View) -> Tensor:
        check_tensors(batch, name)
        with torch.no_grad():
            features, _ = view.features(batch.x, layer)
        return measure(features, batch.y)

    return score


SCORES = {
    score.__name__: score
    for score in (
        memorization_discrepancy,
        anomaly,
        influence,
        loss,
        loss_isolation,
        spectral_signature,
        activation_clustering,
        perturbation_consistency,
    )
}
