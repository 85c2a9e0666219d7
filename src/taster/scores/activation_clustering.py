"""Activation clustering: a label's samples in two clusters, the smaller of which may be poison."""

from __future__ import annotations

import torch
from torch import Tensor

_DIMENSIONS = 10
_LEAST = 4
"""Of fewer samples there are no two clusters."""


def activation_clusters(features: Tensor, labels: Tensor) -> Tensor:
    """How well two clusters describe the samples of a label, for those in the smaller one; 0 for the others.

    Features are reduced to their first 10 principal components; the description is the mean silhouette, in [-1, 1].

    Args:
        features: [n, d].
        labels: [n].

    Returns:
        [n]; 0 as well for labels with fewer than 4 samples, or whose samples are all alike.

    Source: Chen et al. 2018, Algorithm 2; the reduction by principal components in place of independent ones, and the
        silhouette as the score ("exclusionary reclassification" and size being the other criteria) of Section 5.3.
    """
    from sklearn.cluster import KMeans  # slow to import, and only needed here
    from sklearn.metrics import silhouette_score  # slow to import, and only needed here

    found = torch.zeros(len(features), dtype=features.dtype, device=features.device)
    for label in torch.unique(labels):
        own = (labels == label).nonzero().flatten()
        centered = features[own] - features[own].mean(0)
        if len(own) < _LEAST or len(torch.unique(centered, dim=0)) < _LEAST:
            continue
        u, sizes, _ = torch.linalg.svd(centered, full_matrices=False)
        reduced = (u * sizes)[:, :_DIMENSIONS].cpu().numpy()
        cluster = KMeans(2, n_init=4, random_state=0).fit_predict(reduced)
        small = torch.from_numpy(cluster == (cluster.mean() < 1 / 2)).to(own.device)
        found[own[small]] = float(silhouette_score(reduced, cluster))
    return found
