"""A whole attack: what it does to the stream, what it does to the trigger, and the budget that binds both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from taster.attacks.crafting_trace import CraftingTrace
from taster.core.guard import T
from taster.core.types import Batch, Phase
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall

SampleFn = Callable[[int], Batch]
"""Draws so many samples from the attacker's own validation data."""


def sample_class(draw: SampleFn, label: int | None) -> SampleFn:
    """A draw of that class's samples among those that would be drawn; of all for None.

    Raises (when called):
        AttackError: when there are none.
    """
    if label is None:
        return draw

    def only(count: int) -> Batch:
        batch = draw(count)
        keep = batch.y == label
        if not bool(keep.any()):
            raise AttackError(
                f"victim_class: got {label}, wanted a class that the attacker has samples of (there are "
                f"{sorted(set(batch.y.tolist()))} among {count}; raise validation_size where it is rare)"
            )
        return batch.select(keep)

    return only


class PoisonFn(Protocol[T]):
    """Turns a clean batch into a poisoned one, knowing what the view shows. May return anything of the same shape:
    whoever calls it through a `OnlineAttack` gets it projected back into the budget."""

    def __call__(self, clean: T, view: View, /) -> T:
        """The poisoned batch."""
        ...


@dataclass(frozen=True)
class Budget:
    """What an attack may change of a batch.

    Attributes:
        ball: how far each sample may move.
        poison_fraction: share of a batch's samples that may move at all, the per-batch poisoning ratio of Pang et al. 2021.
        max_loss_weight: the greatest factor on the batch's loss.
        labels: whether the labels of those samples may be changed too.
    """

    ball: LpBall = field(default_factory=LpBall)
    poison_fraction: float = 1.0
    max_loss_weight: float = 1.0
    labels: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.poison_fraction <= 1:
            raise AttackError(f"poison_fraction: got {self.poison_fraction}, wanted a share from 0 to 1")

    def max_poisoned(self, samples: int) -> int:
        """How many of so many samples may be poisoned."""
        return int(self.poison_fraction * samples + 1e-9)

    def draw_mask(self, samples: int, generator: torch.Generator) -> torch.Tensor:
        """A random boolean mask [samples] with as many set as the ratio allows."""
        order = torch.randperm(samples, generator=generator, device=generator.device)
        return (order < self.max_poisoned(samples)).cpu()

    def enforce(self, poisoned: Batch, clean: Batch) -> Batch:
        """The poisoned batch brought back into the budget, whatever it was: samples lie in the ball, labels are the
        clean ones unless they may be others, and where more changed than the ratio allows, the later are restored.

        Raises:
            AttackError: when it is no Batch, or its shape or dtype changed, so that there is nothing to project.
        """
        if not isinstance(poisoned, Batch):
            raise AttackError(f"the attack returned {type(poisoned).__name__}, wanted a Batch")
        if poisoned.x.shape != clean.x.shape or poisoned.x.dtype != clean.x.dtype:
            raise AttackError(
                f"the attack returned samples {list(poisoned.x.shape)} of {poisoned.x.dtype}, "
                f"wanted {list(clean.x.shape)} of {clean.x.dtype}"
            )
        x = self.ball.project(poisoned.x.detach().to(clean.x.device), clean.x)
        y = clean.y.clone()
        if self.labels:
            if poisoned.y.shape != y.shape or poisoned.y.dtype != y.dtype:
                raise AttackError(
                    f"the attack returned labels {list(poisoned.y.shape)} of {poisoned.y.dtype}, "
                    f"wanted {list(y.shape)} of {y.dtype}"
                )
            y = poisoned.y.to(y.device)
        found = Batch(x, y, min(poisoned.loss_weight, self.max_loss_weight))
        over = poison_mask(found, clean).cumsum(0) > self.max_poisoned(len(clean))
        x[over] = clean.x[over]
        return Batch(x, torch.where(over, clean.y, y) if self.labels else clean.y, found.loss_weight)


def poison_mask(poisoned: Batch, clean: Batch) -> torch.Tensor:
    """Which samples differ at all, in themselves or their label, [n]."""
    return (poisoned.x != clean.x).flatten(1).any(1) | (poisoned.y != clean.y).reshape(len(clean), -1).any(1)


@dataclass(frozen=True)
class OnlineAttack:
    """An attack over time. Either part may be None, which leaves that part clean.

    Attributes:
        budget: binds both parts, unless the trigger has its own.
        accumulate: applied to each stream batch of the accumulative phase.
        trigger: applied to the trigger batch.
        derivatives: what both compute with, so that a record can say how; None for an attack that needs none.
        weight_momentum: of the learner's SGD in the accumulative phase, in place of its own (Pang et al. 2021, Appendix
            A.3, "weight momentum"); None leaves it.
        trigger_budget: binds the trigger, where it is another attack's than the stream's.
        trace: notes how the poison crafted last came about; None for an attack that keeps no such notes.
    """

    budget: Budget = field(default_factory=Budget)
    accumulate: PoisonFn[Batch] | None = None
    trigger: PoisonFn[Batch] | None = None
    derivatives: Derivatives | None = None
    weight_momentum: float | None = None
    trigger_budget: Budget | None = None
    trace: CraftingTrace | None = None

    def poison(self, clean: Batch, view: View, phase: Phase) -> Batch:
        """The batch that the model is fed in this phase; always within the budget.

        Raises:
            AttackError: see `Budget.enforce`.
        """
        attack = {Phase.ACCUMULATE: self.accumulate, Phase.TRIGGER: self.trigger}.get(phase)
        own = self.trigger_budget if phase is Phase.TRIGGER else None
        return clean if attack is None else (own or self.budget).enforce(attack(clean, view), clean)
