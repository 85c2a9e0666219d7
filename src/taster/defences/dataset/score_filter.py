"""Filters by a score of features: samples that stand out among those of their label are left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from taster.core.threat import countermeasure
from taster.core.view import View
from taster.defences.dataset.readings import feature_rows, no_features
from taster.defences.dataset.run_checks import Share, check_run, kept_weights, part_of, smallest
from taster.defences.dataset_defence import DatasetDefence, TrainingRun
from taster.scores.activation_clustering import activation_clusters
from taster.scores.spectral_signature import spectral_signatures
from taster.utils.setting_types import NonNegative
from taster.utils.settings import validate_settings

_NAME = "score_filter"

_SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "spectral_signature": spectral_signatures,
    "activation_clustering": activation_clusters,
}


@countermeasure("sanitization", "targeted integrity")
@validate_settings
def score_filter(
    *,
    score: Literal["spectral_signature", "activation_clustering"] = "spectral_signature",
    share: Share = 0.15,
    threshold: NonNegative = 0.0,
    by_label: bool = True,
    layer: str | None = None,
) -> DatasetDefence:
    """Fits a net to all samples, and leaves those out that have the highest score of their features.

    Removed is a share of the samples, rounded down, as far as their scores are above the threshold; of equal scores the
    samples that come last. Nobody knows which label was attacked: on clean data the share is lost all the same, unless
    the threshold holds it. Costs one fit.

    Args:
        score: "spectral_signature" (the share to remove is 1.5 times that of poison in a label, Tran et al.), or
            "activation_clustering": the silhouette of a label's two clusters for samples of the smaller one, and 0 for
            the others. It removes whole clusters with a share of 0.5 and a threshold: Chen et al. see silhouettes from
            about 0.10 on where there is poison.
        share: how much is removed at most.
        threshold: samples whose score is not above it stay.
        by_label: whether the share is one of each label's samples, or of all together.
        layer: the layer whose output is used; None takes the input of the last linear layer.

    Raises (when called):
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run`.
        ModelError: for a layer that the net does not have.
        DefenceError: if the fitted classifier is no net, and if no two classes are left.

    Source: Tran et al. 2018, Algorithm 1; Chen et al. 2018, Algorithm 2.
    """

    def weigh(run: TrainingRun) -> Tensor:
        samples = check_run(run, _NAME)
        classifier = run.fit(samples, seed=run.seed)
        if not isinstance(classifier, View):
            raise no_features(classifier, _NAME)
        values = _SCORES[score](feature_rows(classifier, layer)(samples.x), samples.y)
        groups = [samples.y == label for label in torch.unique(samples.y)] if by_label else [samples.y >= 0]
        kept = torch.ones_like(samples.y, dtype=torch.bool)
        for group in groups:
            count = int(group.sum())
            kept[group] = smallest(values[group], count - part_of(share, count))
        return kept_weights(kept | (values <= threshold), samples.y, _NAME)

    return DatasetDefence(weigh)
