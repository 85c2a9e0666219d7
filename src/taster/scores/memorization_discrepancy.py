"""Memorization Discrepancy: how far the model's prediction of a sample has moved since an earlier model."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from taster.core.batch import Batch, check_tensors
from taster.core.view import View
from taster.perturbations.objectives import divergence

Divergence = Literal["kl", "js"]


class MemorizationDiscrepancy:
    """D(x) = D(p(y | x; θ_{t−k}) ‖ p(y | x; θ_t)), one number per sample, in nats: a `Score`.

    Poison crafted on the present model fits it better than it fits an earlier one, so the two disagree more on poison
    than on clean samples.

    Args:
        reference_model: the earlier model, see `taster.View.steps_ago`: the label of a snapshot (a burn-in's epochs
            are labelled "epoch-N"), or k, a number of steps back.
        divergence: "kl", KL(past ‖ present), or "js".
        compared_model: the model compared with it, given in the same way; None is the present model.

    Raises (when called):
        SnapshotError: when the learner does not keep that snapshot.

    Source: Zhu et al. 2023, Definition 3.3 (Eq. 5); the direction of the divergence follows the authors' code.
    """

    def __init__(
        self,
        reference_model: str | int,
        divergence: Divergence = "kl",
        compared_model: str | int | None = None,
    ) -> None:
        self.reference_model = reference_model
        self.divergence: Divergence = divergence
        self.compared_model = compared_model

    def __call__(self, batch: Batch, view: View) -> Tensor:
        """[n], without a graph."""
        with torch.no_grad():
            return self.of_samples(check_tensors(batch, "memorization_discrepancy").x, view)

    def of_samples(self, x: Tensor, view: View) -> Tensor:
        """[n], differentiable in the samples x [n, ...]."""
        compared = view if self.compared_model is None else view.steps_ago(self.compared_model)
        return self.from_logits(view.steps_ago(self.reference_model).forward(x), compared.forward(x))

    def from_logits(self, past: Tensor, present: Tensor) -> Tensor:
        """[n], from the two models' logits, [n, classes] each."""
        return divergence(past, present, self.divergence)
