"""Samples moved to where the model's loss is lower: the reverse of crafting an adversarial sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from taster.discrepancy import MemorizationDiscrepancy
from taster.guard import Admitted
from taster.objectives import ObjectiveName, objective
from taster.pgd import Ball
from taster.score import Threshold, Thresholded
from taster.types import Batch
from taster.view import View

Granularity = Literal["sample", "batch"]


@dataclass(frozen=True)
class Descent:
    """Steps down a sample's own objective, in a ball around it.

        x̃ ← proj(x̃ − α sign ∇ L(x̃, y; θ_t))

    Attributes:
        ball: where the corrected sample may lie.
        steps: at most so many.
        step_size: α, in the units of the data.
        objective: L.
    """

    ball: Ball
    steps: int
    step_size: float
    objective: ObjectiveName = "cross_entropy"

    def step(self, x: Tensor, clean: Batch, logits: Tensor) -> Tensor:
        """One step from x [n, ...], whose logits [n, classes] carry their graph."""
        value = objective(self.objective)(logits, clean.y).sum()
        (slope,) = torch.autograd.grad(value, x)
        return self.ball.step(x.detach(), -slope, self.step_size, clean.x)


class Correction:
    """The screen that corrects every sample by all steps."""

    name = "adversarial_training"

    def __init__(self, descent: Descent) -> None:
        self.descent = descent

    def __call__(self, admitted: Admitted[Batch], view: View) -> Admitted[Batch]:
        """Samples of lower loss."""
        batch = admitted.batch
        x = batch.x
        for _ in range(self.descent.steps):
            leaf = x.detach().requires_grad_(True)
            x = self.descent.step(leaf, batch, view.forward(leaf))
        return admitted.correct(Batch(x, batch.y, batch.loss_scale), (x != batch.x).flatten(1).any(1))


class SelectiveCorrection(Thresholded):
    """The screen that corrects samples for as long as their discrepancy is above a threshold.

    Only samples that are still above it go through the network again.
    """

    name = "dsc"
    score: MemorizationDiscrepancy

    def __init__(
        self, descent: Descent, score: MemorizationDiscrepancy, threshold: Threshold, granularity: Granularity
    ) -> None:
        super().__init__(score, threshold)
        self.descent = descent
        self.granularity = granularity

    def __call__(self, admitted: Admitted[Batch], view: View) -> Admitted[Batch]:
        """The batch with suspicious samples moved."""
        batch, past, bound = admitted.batch, view.earlier(self.score.against), self.threshold(view)
        x = batch.x.clone()
        with torch.no_grad():
            above = self._above(self.score.between(past.forward(x), view.forward(x)), bound)
        chosen = torch.arange(len(batch), device=x.device)[above]
        for step in range(self.descent.steps):
            if len(chosen) == 0:
                break
            leaf = x[chosen].requires_grad_(True)
            logits = view.forward(leaf)
            if step:  # what was above to begin with is above at the first step
                with torch.no_grad():
                    above = self._above(self.score.between(past.forward(leaf), logits), bound)
                if not bool(above.any()):
                    break
            else:
                above = torch.ones_like(chosen, dtype=torch.bool)
            moved = self.descent.step(leaf, batch.select(chosen), logits)
            chosen = chosen[above]
            x[chosen] = moved[above]
        return admitted.correct(Batch(x, batch.y, batch.loss_scale), (x != batch.x).flatten(1).any(1))

    def _above(self, scores: Tensor, bound: float) -> Tensor:
        if self.granularity == "batch":
            return torch.full_like(scores, not bool(scores.mean() <= bound), dtype=torch.bool)
        return ~(scores <= bound)  # what is not a number is suspicious
