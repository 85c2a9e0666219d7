"""Isolation by loss: poison with a trigger is learned before anything else."""

from __future__ import annotations

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.view import View


class LossIsolation:
    """s(x) = ℓ(x; θ_{t−k}) − ℓ(x; θ_t), how far the loss has fallen since an earlier model, or −ℓ(x; θ_t): a `Score`.

    Args:
        reference_model: the earlier model, see `taster.View.steps_ago`; None for the loss alone.

    Raises (when called):
        SnapshotError: when the learner does not keep that snapshot.

    Source: Li et al. 2021 (anti-backdoor learning), Section 3.2, who isolate the samples with the lowest loss early in
        training; in a stream, which shows a sample once, the fall is between two models.
    """

    def __init__(self, reference_model: str | int | None = None) -> None:
        self._reference_model = reference_model

    def __call__(self, batch: Batch, view: View) -> Tensor:
        """[n], without a graph."""
        with torch.no_grad():
            now = view.sample_losses(batch)
            if self._reference_model is None:
                return -now
            return view.steps_ago(self._reference_model).sample_losses(batch) - now
