"""Memorization Discrepancy: how far the model's prediction of a sample has moved since an earlier model."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from taster.core.types import Batch
from taster.core.view import View
from taster.perturbations.objectives import divergence

Divergence = Literal["kl", "js"]


class MemorizationDiscrepancy:
    """D(x) = D(p(y | x; θ_{t−k}) ‖ p(y | x; θ_t)), one number a sample, in nats: a `Score`.

    Poison that is crafted on the present model fits it better than it fits the past one, so that the two disagree more
    on it than on clean samples.

    Args:
        against: the earlier model, see `taster.View.earlier`: the label of a pinned snapshot (a burn-in's epochs are
            pinned as "epoch-N"), or k, the number of steps back.
        divergence: "kl", KL(past ‖ present), or "js".
        of: the model that is compared with it, named likewise; None is the present one.

    Raises (when called):
        HistoryError: when the learner does not keep that snapshot.

    Source: Zhu et al. 2023, Definition 3.3 (Eq. 5); the direction of the divergence as in the authors' code.
    """

    def __init__(
        self, reference_model: str | int, divergence: Divergence = "kl", compared_model: str | int | None = None
    ) -> None:
        self.reference_model = reference_model
        self.divergence: Divergence = divergence
        self.compared_model = compared_model

    def __call__(self, batch: Batch, view: View) -> Tensor:
        """[n], without a graph."""
        with torch.no_grad():
            return self.of_samples(batch.x, view)

    def of_samples(self, x: Tensor, view: View) -> Tensor:
        """[n], differentiable in the samples x [n, ...]."""
        subject = view if self.compared_model is None else view.steps_ago(self.compared_model)
        return self.from_logits(view.steps_ago(self.reference_model).forward(x), subject.forward(x))

    def from_logits(self, past: Tensor, present: Tensor) -> Tensor:
        """The same from the two models' logits, [n, classes] each."""
        return divergence(past, present, self.divergence)
