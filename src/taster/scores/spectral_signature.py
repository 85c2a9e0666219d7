"""Spectral signatures: how much of the common direction of its label's samples a sample has."""

from __future__ import annotations

import torch
from torch import Tensor


def spectral_signatures(features: Tensor, labels: Tensor) -> Tensor:
    """τ(x) = ⟨φ(x) − mean, v⟩², by label, v the direction in which the label's features vary most.

    Args:
        features: φ, [n, d].
        labels: [n].

    Returns:
        [n]; 0 for labels with a single sample.

    Source: Tran et al. 2018, Algorithm 1.
    """
    found = torch.zeros(len(features), dtype=features.dtype, device=features.device)
    for label in torch.unique(labels):
        own = labels == label
        if int(own.sum()) > 1:
            centered = features[own] - features[own].mean(0)
            direction = torch.linalg.svd(centered, full_matrices=False).Vh[0]
            found[own] = (centered @ direction).square()
    return found
