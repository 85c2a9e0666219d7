"""Samples moved to where the model's loss is lower: the reverse of crafting an adversarial sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from taster.core.guard import ScreenedBatch
from taster.core.types import Batch
from taster.core.view import View
from taster.perturbations.objectives import SampleLoss, cross_entropy_per_sample
from taster.perturbations.pgd import LpBall, pgd_with_early_stop
from taster.scores.base import Score, ScoreThresholdStage, Threshold
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy

Granularity = Literal["sample", "batch"]


ContinueFn = Callable[[Batch, Tensor], Tensor]
"""Of samples as they stand, and their logits [m, classes]: which of them to move on, a mask [m]."""


@dataclass(frozen=True)
class LossDescent:
    """Steps down a sample's own loss, in a ball around it.

        x̃ ← proj(x̃ − α sign ∇ L(x̃, y; θ_t))

    Attributes:
        ball: where the corrected sample may lie.
        steps: at most so many.
        step_size: α, in the units of the data.
        loss: L.
    """

    ball: LpBall
    steps: int
    step_size: float
    loss: SampleLoss = cross_entropy_per_sample

    def descend(self, batch: Batch, view: View, chosen: Tensor, still: ContinueFn | None = None) -> Tensor:
        """Moves the samples of these indices; only those that are still to be moved go through the network again.

        Args:
            batch: as it came.
            view: of the learner.
            chosen: indices, [m].
            still: asked before every step but the first; None goes all steps.

        Returns:
            all samples, [n, ...].
        """
        reference: Tensor | None = None

        def ascent(x: Tensor, left: Tensor) -> tuple[Tensor, Tensor] | None:
            """Of −L."""
            nonlocal reference
            leaf = x.requires_grad_(True)
            logits = view.forward(leaf)
            going = torch.ones_like(left, dtype=torch.bool)
            if reference is None:
                reference = logits.detach()
            elif still is not None:
                with torch.no_grad():
                    going = still(Batch(leaf.detach(), batch.y[left]), logits)
                if not bool(going.any()):
                    return None
            (slope,) = torch.autograd.grad(self.loss(logits, batch.y[left], reference).sum(), leaf)
            reference = reference[going]
            return -slope[going], going

        return pgd_with_early_stop(ascent, batch.x, self.ball, chosen, steps=self.steps, step_size=self.step_size)


class Correction:
    """The screen that corrects every sample.

    Args:
        name: in records.
        descent: how.
        patience: steps that a sample still goes after it is classified rightly; None goes all steps.
    """

    def __init__(self, name: str, descent: LossDescent, patience: int | None = None) -> None:
        self.name = name
        self.descent = descent
        self.patience = patience

    def __call__(self, admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        """Samples of lower loss."""
        batch = admitted.batch
        everything = torch.arange(len(batch), device=batch.x.device)
        still = None if self.patience is None else _UntilCorrect(len(batch), self.patience, batch.y.device)
        return mark_corrected(admitted, self.descent.descend(batch, view, everything, still))


class _UntilCorrect:
    """Lets a sample go on until it has been classified rightly for so many steps."""

    def __init__(self, samples: int, patience: int, device: torch.device) -> None:
        self.left = torch.full((samples,), patience, device=device)

    def __call__(self, batch: Batch, logits: Tensor) -> Tensor:
        self.left -= (logits.argmax(1) == batch.y).long()
        going = self.left >= 0
        self.left = self.left[going]
        return going


class ThresholdCorrection(ScoreThresholdStage):
    """The screen that corrects samples for as long as their score is above a threshold.

    Only samples that are still above it go through the network again.

    Args:
        name: in records.
        descent: how they are moved.
        score: how suspicious each sample is.
        threshold: from where on it counts.
        granularity: "sample" stops each by itself, "batch" all at once by their mean.
    """

    def __init__(
        self, name: str, descent: LossDescent, score: Score, threshold: Threshold, granularity: Granularity = "sample"
    ) -> None:
        super().__init__(score, threshold)
        self.name = name
        self.descent = descent
        self.granularity = granularity

    def __call__(self, admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        """The batch with suspicious samples moved."""
        batch, scores, bound = admitted.batch, self._scores(view), self.threshold(view)

        def above(samples: Batch, logits: Tensor) -> Tensor:
            return self._above(scores(samples, logits), bound)

        with torch.no_grad():  # a pass without a graph first, as most samples need no more
            chosen = torch.arange(len(batch), device=batch.x.device)[above(batch, view.forward(batch.x))]
        return mark_corrected(admitted, self.descent.descend(batch, view, chosen, above))

    def _scores(self, view: View) -> Callable[[Batch, Tensor], Tensor]:
        score = self.score
        if not isinstance(score, MemorizationDiscrepancy) or score.compared_model is not None:
            return lambda samples, _: score(samples, view)
        # The model's own logits are there already: half the passes.
        past = view.steps_ago(score.reference_model)
        return lambda samples, logits: score.from_logits(past.forward(samples.x), logits)

    def _above(self, scores: Tensor, bound: float) -> Tensor:
        if self.granularity == "batch":
            return torch.full_like(scores, not bool(scores.mean() <= bound), dtype=torch.bool)
        return ~(scores <= bound)  # what is not a number is suspicious


def mark_corrected(admitted: ScreenedBatch[Batch], x: Tensor) -> ScreenedBatch[Batch]:
    """The batch with these samples, those that differ marked."""
    batch = admitted.batch
    return admitted.correct(Batch(x, batch.y, batch.loss_weight), (x != batch.x).flatten(1).any(1))
