"""An attack on a stream: how it poisons stream batches and the trigger batch, and the budget that bounds both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Protocol

import torch
from pydantic import Field

from taster.attacks.backdoor import Backdoor
from taster.attacks.crafting_trace import CraftingTrace
from taster.core.batch import Batch, check_tensors
from taster.core.guard import T
from taster.core.step_record import Phase
from taster.core.view import View
from taster.derivatives import Derivatives
from taster.errors import AttackError
from taster.perturbations.edits import Edits
from taster.perturbations.pgd import LpBall, Norm
from taster.utils.settings import settings_group

SampleFn = Callable[[int], Batch]
"""Draws a number of samples from the attacker's own data."""


def sample_class(draw: SampleFn, label: int | None) -> SampleFn:
    """Restricts a draw to the samples of one class. None: no restriction.

    Raises (when called):
        AttackError: if none of the drawn samples is of that class.
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
    """Turns a clean batch into a poisoned one, given a view of the model.

    What it returns need not lie within the budget: `OnlineAttack.poison` projects it.
    """

    def __call__(self, clean: T, view: View, /) -> T:
        """Returns the poisoned batch, of the shape of the clean one."""
        ...


@dataclass(frozen=True)
class Budget:
    """What an attack may change of a batch.

    Attributes:
        ball: how far each sample may move.
        poison_fraction: fraction of a batch's samples that may be poisoned, the per-batch poisoning ratio of Pang et
            al. 2021.
        max_loss_weight: largest factor on the batch's loss.
        labels: whether the labels of the poisoned samples may be changed as well.
        edits: how many values of each sample may change, in place of how far it may move: for tokens, which have no
            distance, and for rows of tables. None: the ball bounds.
    """

    ball: LpBall = field(default_factory=LpBall)
    poison_fraction: float = 1.0
    max_loss_weight: float = 1.0
    labels: bool = False
    edits: Edits | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.poison_fraction <= 1:
            raise AttackError(f"poison_fraction: got {self.poison_fraction}, wanted a fraction from 0 to 1")

    def within(self, low: float, high: float) -> Budget:
        """This budget in the range of the data, which nobody knows when it is made."""
        edits = None if self.edits is None else replace(self.edits, low=low, high=high)
        return replace(self, ball=replace(self.ball, low=low, high=high), edits=edits)

    def check(self, clean: Batch) -> None:
        """Raises AttackError for a ball around token ids, which have no distance."""
        if self.edits is None:
            check_has_distance(clean.x, self.ball.epsilon)

    def max_poisoned(self, samples: int) -> int:
        """The largest number of samples that may be poisoned in a batch of this size."""
        return int(self.poison_fraction * samples + 1e-9)

    def draw_mask(self, samples: int, generator: torch.Generator) -> torch.Tensor:
        """A random boolean mask [samples] of the samples to poison."""
        order = torch.randperm(samples, generator=generator, device=generator.device)
        return (order < self.max_poisoned(samples)).cpu()

    def enforce(self, poisoned: Batch, clean: Batch) -> Batch:
        """Projects a poisoned batch into the budget.

        Samples are projected into the ball, or to within the edits; labels are reset to the clean ones unless they may
        change; if more samples differ than may be poisoned, the last ones are reset.

        Raises:
            AttackError: if it is not a Batch, or its shape or dtype differs from the clean batch's.
        """
        if not isinstance(poisoned, Batch):
            raise AttackError(f"the attack returned {type(poisoned).__name__}, wanted a Batch")
        if poisoned.x.shape != clean.x.shape or poisoned.x.dtype != clean.x.dtype:
            raise AttackError(
                f"the attack returned samples {list(poisoned.x.shape)} of {poisoned.x.dtype}, "
                f"wanted {list(clean.x.shape)} of {clean.x.dtype}"
            )
        found_x = poisoned.x.detach().to(clean.x.device)
        if self.edits is not None:
            x = self.edits.project(found_x, clean.x)
        else:
            x = self.ball.project(found_x, clean.x) if clean.x.is_floating_point() else clean.x.clone()
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


def check_has_distance(x: torch.Tensor, epsilon: float) -> None:
    """Raises AttackError for a change of content that is measured by a distance, of samples that are token ids."""
    if epsilon and not x.is_floating_point():
        raise AttackError(
            f"got samples of {x.dtype}, which have no distance that epsilon could bound, wanted floating point; for "
            "token ids: token_substitution, random_edits, or label_flip"
        )


def poison_mask(poisoned: Batch, clean: Batch) -> torch.Tensor:
    """Which samples differ from the clean ones, in value or label, [n]."""
    changed: torch.Tensor = (poisoned.x != clean.x).flatten(1).any(1) | (poisoned.y != clean.y).reshape(
        len(clean), -1
    ).any(1)
    return changed


@settings_group
class PerturbationSettings:
    """Settings of a budget.

    Attributes:
        epsilon: radius of the ball, ε, in the units of the data.
        norm: norm of the ball.
        poison_fraction: fraction of each batch that is poisoned.
    """

    epsilon: Annotated[float, Field(ge=0)] = 8 / 255
    norm: Norm = "linf"
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0

    def budget(self, *, max_loss_weight: float = 1.0, labels: bool = False) -> Budget:
        """The budget with these settings."""
        return Budget(LpBall(self.norm, self.epsilon), self.poison_fraction, max_loss_weight, labels)


@dataclass(frozen=True)
class OnlineAttack:
    """An attack over time. Either part may be None, which leaves that part clean.

    Attributes:
        budget: bounds both parts, unless the trigger has its own.
        accumulate: poisons each stream batch of the accumulative phase.
        trigger: poisons the trigger batch.
        derivatives: computes the derivatives of both parts, for the record. None: the attack needs none.
        weight_momentum: momentum of the learner's SGD during the accumulative phase ("weight momentum" in Pang et al.
            2021, Appendix A.3). None: unchanged.
        trigger_budget: bounds the trigger if it is another attack's than the stream's.
        trace: records the iterations of the last crafting. None: the attack records none.
        backdoor: what is planted, so that its success can be measured. None: no backdoor trigger is.
        check_samples: raises AttackError for samples that the attack is not made for, before anything else is done with
            them. None: it is made for all.
    """

    budget: Budget = field(default_factory=Budget)
    accumulate: PoisonFn[Batch] | None = None
    trigger: PoisonFn[Batch] | None = None
    derivatives: Derivatives | None = None
    weight_momentum: float | None = None
    trigger_budget: Budget | None = None
    trace: CraftingTrace | None = None
    backdoor: Backdoor | None = None
    check_samples: Callable[[Batch], None] | None = None

    def poison(self, clean: Batch, view: View, phase: Phase) -> Batch:
        """The batch that the model is fed in this phase, projected into the budget.

        Raises:
            AttackError: see `Budget.enforce` and `check_samples`.
        """
        attack = {Phase.ACCUMULATE: self.accumulate, Phase.TRIGGER: self.trigger}.get(phase)
        own = self.trigger_budget if phase is Phase.TRIGGER else None
        if attack is None:
            return clean
        budget = own or self.budget
        budget.check(check_tensors(clean, "attack"))
        if self.check_samples is not None:
            self.check_samples(clean)
        return budget.enforce(attack(clean, view), clean)

    def check(self, clean: Batch) -> None:
        """Raises AttackError for samples that it is not made for, or its budgets have no measure for; see
        `check_samples` and `Budget.check`."""
        if self.check_samples is not None:
            self.check_samples(clean)
        if self.accumulate is not None:
            self.budget.check(clean)
        if self.trigger is not None:
            (self.trigger_budget or self.budget).check(clean)

    def within(self, low: float, high: float) -> OnlineAttack:
        """This attack, held to the range of the data."""
        trigger = None if self.trigger_budget is None else self.trigger_budget.within(low, high)
        return replace(self, budget=self.budget.within(low, high), trigger_budget=trigger)
