"""Samples moved to where the model's loss is lower: the reverse of crafting an adversarial sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from taster.core.batch import Batch, check_tensors
from taster.core.guard import ScreenedBatch
from taster.core.view import View
from taster.defences.screens.score_threshold import ScoreThresholdStage
from taster.perturbations.objectives import SampleLoss, cross_entropy_per_sample
from taster.perturbations.pgd import LpBall, pgd_with_early_stop
from taster.scores.base import Score
from taster.scores.memorization_discrepancy import MemorizationDiscrepancy
from taster.scores.thresholds import Threshold

Granularity = Literal["sample", "batch"]

ContinueFn = Callable[[Batch, Tensor, Tensor], Tensor]
"""From samples in their present state [m, ...], their logits [m, classes] and their indices in the batch [m] to a mask
[m] of those to move further; on a GPU samples that have stopped are among them."""


@dataclass(frozen=True)
class LossDescent:
    """Steps down a sample's own loss, in a ball around it.

        x̃ ← proj(x̃ − α sign ∇ L(x̃, y; θ_t))

    Attributes:
        ball: where the corrected sample may lie; its range is replaced by the learner's `input_range`.
        steps: the maximum number of steps.
        step_size: α, in the units of the data.
        loss: L.
    """

    ball: LpBall
    steps: int
    step_size: float
    loss: SampleLoss = cross_entropy_per_sample

    def descend(self, batch: Batch, view: View, chosen: Tensor, keep_going: ContinueFn | None = None) -> Tensor:
        """Moves the samples of these indices, each until it stops; see `taster.perturbations.pgd_with_early_stop`.

        Args:
            batch: the samples before the correction.
            view: of the learner.
            chosen: indices, [m].
            keep_going: called before every step except the first; None makes all steps.

        Returns:
            all samples, [n, ...].
        """
        initial_logits: Tensor | None = None  # of all samples; rows of those that are not moved are not read

        def look(x: Tensor, left: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
            """Who goes on, and the gradient of −L."""
            nonlocal initial_logits
            leaf = x.detach().requires_grad_(True)
            logits = view.forward(leaf)
            going = torch.ones_like(left, dtype=torch.bool)
            if initial_logits is None:
                initial_logits = logits.new_zeros(len(batch), *logits.shape[1:])
                initial_logits[left] = logits.detach()
            elif keep_going is not None:
                with torch.no_grad():
                    going = keep_going(Batch(leaf.detach(), batch.y[left]), logits, left)
            loss = self.loss(logits, batch.y[left], initial_logits[left]).sum()
            return going, lambda: -torch.autograd.grad(loss, leaf)[0]

        low, high = (-torch.inf, torch.inf) if view.input_range is None else view.input_range
        ball = replace(self.ball, low=low, high=high)
        return pgd_with_early_stop(look, batch.x, ball, chosen, steps=self.steps, step_size=self.step_size)


class Correction:
    """A screen that corrects every sample.

    Args:
        name: the name in records.
        descent: how samples are moved.
        patience: steps that a sample continues after it is classified correctly; None makes all steps.
    """

    def __init__(self, name: str, descent: LossDescent, patience: int | None = None) -> None:
        self.name = name
        self.descent = descent
        self.patience = patience

    def __call__(self, admitted: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        """The batch with samples of lower loss."""
        batch = check_tensors(admitted.batch, self.name)
        everything = torch.arange(len(batch), device=batch.x.device)
        keep_going = None if self.patience is None else _UntilCorrect(len(batch), self.patience, batch.y.device)
        return mark_corrected(admitted, self.descent.descend(batch, view, everything, keep_going))


class _UntilCorrect:
    """Lets a sample continue until it has been classified correctly for `patience` steps."""

    def __init__(self, samples: int, patience: int, device: torch.device) -> None:
        self.left = torch.full((samples,), patience, device=device)

    def __call__(self, batch: Batch, logits: Tensor, places: Tensor) -> Tensor:
        self.left[places] -= (logits.argmax(1) == batch.y).long()
        return self.left[places] >= 0


class ThresholdCorrection(ScoreThresholdStage):
    """A screen that corrects samples while their score is above a threshold.

    Args:
        name: the name in records.
        descent: how samples are moved.
        score: how suspicious each sample is.
        threshold: the value above which a score counts.
        granularity: "sample" stops each sample by its own score, "batch" all of them by their mean.
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
        batch, scores, bound = check_tensors(admitted.batch, self.name), self._scores(view), self.threshold(view)

        def above(samples: Batch, logits: Tensor, places: Tensor) -> Tensor:
            return self._above(scores(samples, logits), bound)

        everything = torch.arange(len(batch), device=batch.x.device)
        with torch.no_grad():  # a first pass without a graph, as most samples need no more
            chosen = everything[above(batch, view.forward(batch.x), everything)]
        return mark_corrected(admitted, self.descent.descend(batch, view, chosen, above))

    def _scores(self, view: View) -> Callable[[Batch, Tensor], Tensor]:
        score = self.score
        if not isinstance(score, MemorizationDiscrepancy) or score.compared_model is not None:
            return lambda samples, _: score(samples, view)
        # The present model's logits are known already, which halves the passes.
        past = view.steps_ago(score.reference_model)
        return lambda samples, logits: score.from_logits(past.forward(samples.x), logits)

    def _above(self, scores: Tensor, bound: float) -> Tensor:
        if self.granularity == "batch":
            return ~(scores.mean() <= bound).expand_as(scores)
        return ~(scores <= bound)  # NaN counts as suspicious


def mark_corrected(admitted: ScreenedBatch[Batch], x: Tensor) -> ScreenedBatch[Batch]:
    """The batch with these samples; those that differ from before count as corrected."""
    batch = admitted.batch
    return admitted.correct(Batch(x, batch.y, batch.loss_weight), (x != batch.x).flatten(1).any(1))
