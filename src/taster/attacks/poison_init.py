"""Where poison of Yang et al. 2017 begins: a normal sample or noise, under a label that is not its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from taster.attacks.labels import wrong_labels
from taster.attacks.online_attack import Budget, SampleFn, sample_class
from taster.core.types import Batch
from taster.core.view import View

InitMode = Literal["sample", "uniform"]


@dataclass(frozen=True)
class PoisonInit:
    """Draws where poison begins.

    Attributes:
        budget: which samples may be poisoned, and how far.
        draw: the attacker's own samples.
        generator: draws the samples that are poisoned, their labels and the noise.
        beginning: "sample" begins at a normal sample, "uniform" at noise, uniform over the range of the data.
        target: t_p, the attacking class; None draws one for each sample that is not its own.
        source: the class of the attacker's own samples to begin at; None begins at the batch's own.
        drawn: how many own samples are looked through for that class.
    """

    budget: Budget
    draw_own: SampleFn
    generator: torch.Generator
    init: InitMode
    target_class: int | None
    source_class: int | None
    sample_size: int

    def __call__(self, clean: Batch, view: View) -> tuple[Batch, Tensor]:
        """The batch as it begins, and which of its samples are poisoned, [n].

        Raises:
            AttackError: for a target that the model has no output for, or a source that there are no samples of.
        """
        chosen = self.budget.draw_mask(len(clean), self.generator).to(clean.x.device)
        x, y = clean.x, clean.y
        if self.source_class is not None:
            own = sample_class(self.draw_own, self.source_class)(self.sample_size)
            index = torch.arange(len(clean), device=own.x.device) % len(own)
            x, y = own.x[index], own.y[index]
        if self.init == "uniform":
            ball = self.budget.ball
            noise = torch.rand(x.shape, generator=self.generator, device=self.generator.device, dtype=x.dtype)
            x = ball.low + (ball.high - ball.low) * noise.to(x.device)
        labels = wrong_labels(y, clean.x, view, self.generator, self.target_class)
        # One that is of the attacking class already is given another, so that the label is wrong.
        labels = torch.where(labels == y, wrong_labels(y, clean.x, view, self.generator, None), labels)
        rows = chosen.reshape(-1, *[1] * (x.dim() - 1))
        begun = torch.where(rows, self.budget.ball.project(x, clean.x), clean.x)
        return Batch(begun, torch.where(chosen, labels, clean.y)), chosen
