"""Initial poison of Yang et al. 2017: a normal sample or noise, under a wrong label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.crafting_trace import CraftingTrace
from taster.attacks.online_attack import Budget, PerturbationSettings, SampleFn, sample_class
from taster.attacks.unrolled_update import OneStepUpdate
from taster.core.batch import Batch
from taster.core.types import BatchNormMode
from taster.core.view import View
from taster.errors import AttackError
from taster.utils.settings import settings_group

InitMode = Literal["sample", "uniform"]


@settings_group
class InjectionSettings(PerturbationSettings):
    """Settings of the attacks that maximize the loss after one update on mislabelled samples.

    Attributes:
        epsilon: distance of a poisoned sample from the batch's own. 1, the range of the data, does not bind.
        group_size: number of samples in S_n.
        init: "sample" starts at a normal sample, "uniform" at uniform noise over the range of the data.
        target_class: t_p, the attacking class. None: a random wrong class for each sample. A sample that is of the
            target class already gets another one.
        source_class: class of the attacker's own samples to start at. None: start at the batch's own samples.
        tol: L_th, the change of the loss below which an iteration counts as converged.
        iterations: maximum number of iterations. 0 injects the initial poison, which is the control.
        keep: "most_harmful" injects the iteration with the largest loss after the update, which is what Table I of the
            paper reports; "last" the last one.
        batch_norm: batch-norm statistics used while crafting: the recorded ones ("eval") or those of the batch
            ("train"). None: the recorded ones or, in a recipe's federation, those that its clients use.
        greedy: whether to poison every batch of the stream in the same way.
    """

    epsilon: Annotated[float, Field(ge=0)] = 1.0
    group_size: Annotated[int, Field(ge=1)] = 100
    init: InitMode = "sample"
    target_class: Annotated[int, Field(ge=0)] | None = None
    source_class: Annotated[int, Field(ge=0)] | None = None
    tol: Annotated[float, Field(ge=0)] = 0.001
    iterations: Annotated[int, Field(ge=0)] = 30
    keep: Literal["most_harmful", "last"] = "most_harmful"
    batch_norm: BatchNormMode | None = None
    greedy: bool = False

    def kept(self, trace: CraftingTrace, last: Batch) -> Batch:
        """The batch that is injected."""
        return trace.most_harmful if self.keep == "most_harmful" else last


@dataclass(frozen=True)
class PoisonInit:
    """Draws initial poison.

    Attributes:
        settings: which samples are poisoned, and where they start.
        draw_own: draws the attacker's own samples.
        generator: draws which samples are poisoned, their labels and the noise.
    """

    settings: InjectionSettings
    draw_own: SampleFn
    generator: torch.Generator

    @property
    def budget(self) -> Budget:
        """What may be changed."""
        return self.settings.budget(labels=True)

    def __call__(self, clean: Batch, view: View) -> tuple[Batch, Tensor]:
        """The initial batch, and which of its samples are poisoned, [n].

        Raises:
            AttackError: if the model has no output for the target class, or none of the attacker's samples is of the
                source class.
        """
        settings, budget = self.settings, self.budget
        chosen = budget.draw_mask(len(clean), self.generator).to(clean.x.device)
        x, y = clean.x, clean.y
        if settings.source_class is not None:
            own = sample_class(self.draw_own, settings.source_class)(settings.group_size)
            index = torch.arange(len(clean), device=own.x.device) % len(own)
            x, y = own.x[index], own.y[index]
        if settings.init == "uniform":
            ball = budget.ball
            noise = torch.rand(x.shape, generator=self.generator, device=self.generator.device, dtype=x.dtype)
            x = ball.low + (ball.high - ball.low) * noise.to(x.device)
        labels = wrong_labels(y, clean.x, view, self.generator, settings.target_class)
        # A sample of the target class gets another label, so that its label is wrong.
        labels = torch.where(labels == y, wrong_labels(y, clean.x, view, self.generator, None), labels)
        rows = chosen.reshape(-1, *[1] * (x.dim() - 1))
        initial = torch.where(rows, budget.ball.project(x, clean.x), clean.x)
        return Batch(initial, torch.where(chosen, labels, clean.y)), chosen

    def draw_update(self, view: View, learning_rate: float) -> OneStepUpdate:
        """The update to maximize the loss after, with a fresh S_n."""
        batch_norm = self.settings.batch_norm or "eval"
        return OneStepUpdate(view, self.draw_own(self.settings.group_size), learning_rate, batch_norm)


def wrong_labels(
    y: Tensor,
    x: Tensor,
    view: View,
    generator: torch.Generator,
    target_class: int | None,
    *,
    systematic: bool = False,
) -> Tensor:
    """A label for each sample: the target class, the one after its own, or a random class other than its own.

    Args:
        y: the samples' own classes, [n].
        x: any samples; a forward pass of the first one gives the number of classes.
        view: of the model.
        generator: draws the labels.
        target_class: the label for all samples. None: random wrong labels, all equally likely.
        systematic: the label is that of the class after a sample's own, and 0 after the last, in place of a random one.

    Raises:
        AttackError: if the model has no output for the target class.
    """
    with torch.no_grad():
        classes = view.forward(x[:1]).shape[1]
    if target_class is not None and target_class >= classes:
        raise AttackError(
            f"target_class: got {target_class}, wanted 0 to {classes - 1}: the model has {classes} classes"
        )
    shift = torch.randint(1, classes, (len(y),), generator=generator, device=generator.device).to(y.device)
    if systematic:
        shift = torch.ones_like(shift)
    return (y + shift) % classes if target_class is None else torch.full_like(y, target_class)
