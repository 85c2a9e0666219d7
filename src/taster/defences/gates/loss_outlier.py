"""Whether the loss of a batch is an outlier: the cheapest sign of poison, which is no proof of any."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from taster.core.guard import CandidateUpdate
from taster.core.host import to_host
from taster.stats.swing import Swing

_OUTLIER = 4.0
"""Standard errors above the trusted samples' mean loss, and scales above those of the last batches, from which a
batch's loss is an outlier."""


def is_outlier_of_probe(change: CandidateUpdate, losses: Tensor | None) -> bool:
    """Whether a batch's loss is further above the trusted samples' than chance allows for its size.

    Args:
        change: with the loss of the batch and its size.
        losses: of the trusted samples, [n]; None where they are not known.
    """
    if change.loss is None or losses is None or len(losses) < 2:
        return False
    losses = losses.double()
    mean, deviation = to_host(losses.mean(), losses.std())
    error = deviation / max(1, change.samples) ** 0.5
    if error == 0.0:  # a loss that is none of single samples
        return False
    return not change.loss <= mean + _OUTLIER * error


def is_outlier_of_batches(change: CandidateUpdate, losses: Swing) -> bool:
    """Whether a batch's loss is an outlier among those of the last batches that were committed."""
    usual = losses.limit(np.array([-np.inf]), np.array([np.inf]), np.array([_OUTLIER]))
    return change.loss is not None and not change.loss <= usual[0]
