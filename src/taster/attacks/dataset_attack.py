"""An attack on a training set: what the attacker knows, what he may change, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.backdoor import Backdoor
from taster.attacks.online_attack import check_has_distance, poison_mask
from taster.core.batch import Batch, check_tensors
from taster.core.fitting import Fit
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall
from taster.utils.settings import settings_group

ContentChange = LpBall | Literal["any", "none"]
"""What may become of a sample's content: as far as a ball reaches, anything in the range of the data, or nothing."""


@dataclass(frozen=True, eq=False)
class DatasetKnowledge:
    """What an attacker knows of the training that his poison is for.

    Attributes:
        classes: number of classes.
        own: samples of the attacker's own, drawn as the training set was, x [m, ...] and y [m]; none of them is in it.
        fits: each trains a model as the victim does (white box), or as the attacker supposes that he may
            (surrogates).
        low, high: the range of the data.
        generator: whatever the attack draws, it draws from this.
    """

    classes: int
    own: Batch
    fits: tuple[Fit, ...]
    generator: torch.Generator
    low: float = 0.0
    high: float = 1.0

    @property
    def fit(self) -> Fit:
        """The first of the trainings, for attacks on one."""
        return self.fits[0]


@dataclass(frozen=True)
class DatasetBudget:
    """What an attack may change of a training set.

    Attributes:
        poison_fraction: poisoned samples, changed and inserted ones together, over the samples of the clean set,
            rounded down.
        insert: whether samples may be inserted. Otherwise the attacker changes those that are there.
        content: what may become of a changed sample's content; of an inserted one, measured from `Poison.base`. The
            range of the data is that of `DatasetKnowledge`, whatever the ball says: a budget is made before the data
            are known.
        labels: whether labels may be wrong: a changed sample may have another label than it had, and an inserted one
            any. Otherwise a changed sample keeps its label, and an inserted one has that of its base.
    """

    poison_fraction: float = 1.0
    insert: bool = False
    content: ContentChange = field(default_factory=LpBall)
    labels: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.poison_fraction <= 1:
            raise AttackError(f"poison_fraction: got {self.poison_fraction}, wanted a fraction from 0 to 1")

    def max_poisoned(self, samples: int) -> int:
        """The largest number of poisoned samples in a clean set of this size."""
        return int(self.poison_fraction * samples + 1e-9)

    def draw(self, samples: int, generator: torch.Generator) -> Tensor:
        """Random places of the samples to change, int64 [max_poisoned], in ascending order."""
        order = torch.randperm(samples, generator=generator, device=generator.device)
        return order[: self.max_poisoned(samples)].sort().values.cpu()


@dataclass(frozen=True, eq=False)
class Poison:
    """What an attack gives back.

    Attributes:
        samples: x [n + m, ...] and y [n + m]: the clean set with samples changed in their places, and m inserted ones
            behind them.
        base: the attacker's own sample that each inserted one was made of, x [m, ...] and y [m]. None where the budget
            does not ask for any: content "any", and labels.
    """

    samples: Batch
    base: Batch | None = None


@dataclass(frozen=True, eq=False)
class PoisonedDataset:
    """A training set after an attack, within its budget.

    Attributes:
        samples: x [n + m, ...] and y [n + m].
        poisoned: which of them the attacker changed or inserted, bool [n + m]; known to the report and to no defence.
    """

    samples: Batch
    poisoned: Tensor


PoisonDatasetFn = Callable[[Batch, DatasetKnowledge], Poison]
"""Poisons a clean training set. What comes back need not be within the budget: `DatasetAttack` sees to it."""


@dataclass(frozen=True)
class DatasetAttack:
    """An attack on a training set.

    Attributes:
        budget: what may be changed.
        poison: changes and inserts samples. None leaves the set clean.
        backdoor: what is planted, so that its success can be measured. None: no backdoor is.
        target: samples that one class is wanted for, x [k, ...] and y [k] (the class that the attacker wants), so that
            success can be measured; a function of what the attacker knows. None: no sample is.
    """

    budget: DatasetBudget
    poison: PoisonDatasetFn | None = None
    backdoor: Backdoor | None = None
    target: Callable[[DatasetKnowledge], Batch] | None = None

    def __call__(self, clean: Batch, knowledge: DatasetKnowledge) -> PoisonedDataset:
        """The set that is trained on.

        Args:
            clean: x [n, ...] and y int64 [n].
            knowledge: of the attacker.

        Raises:
            AttackError: for samples or labels of another shape or type, labels that no class has, and more poisoned
                samples than the budget allows; for token ids, if the budget allows other content.
        """
        check_tensors(clean, "dataset attack")
        if self.poison is None:
            return PoisonedDataset(clean, torch.zeros(len(clean), dtype=torch.bool))
        if not self.budget.max_poisoned(len(clean)):
            raise AttackError(
                f"poison_fraction: got {self.budget.poison_fraction}, which is no sample of {len(clean)}; wanted at "
                f"least {1 / len(clean):.2g}"
            )
        self.check(clean)
        # A copy, so that what an attack writes into it is compared with the clean set, and held to the budget.
        copied = Batch(clean.x.clone(), clean.y.clone())
        return enforce(self.budget, self.poison(copied, knowledge), clean, knowledge)

    def check(self, clean: Batch) -> None:
        """Raises AttackError for token ids, if the budget allows other content: they have no distance."""
        content = self.budget.content
        if self.poison is not None and content != "none":
            check_has_distance(clean.x, content.epsilon if isinstance(content, LpBall) else 1)


def enforce(budget: DatasetBudget, poison: Poison, clean: Batch, knowledge: DatasetKnowledge) -> PoisonedDataset:
    """Projects poison into its budget: content into the ball and the range of the data, and labels that may not be
    wrong to what they were.

    Raises:
        AttackError: for what cannot be projected: other shapes and types, labels that no class has, samples inserted
            without leave or without their base, and more poisoned samples than allowed.
    """
    found, n = poison.samples, len(clean)
    inserted = _check_form(found, clean, knowledge.classes)
    if inserted and not budget.insert:
        raise AttackError(f"the attack inserted {inserted} samples, wanted none: its budget has insert = False")
    base = _base(budget, poison, clean, inserted, knowledge.classes)
    x, y = found.x.detach().to(clean.x.device), found.y.to(clean.y.device)
    if budget.content == "none" or not clean.x.is_floating_point():  # ids have no distance: see DatasetAttack
        x = base.x.clone()
    else:
        if isinstance(budget.content, LpBall):
            x = replace(budget.content, low=knowledge.low, high=knowledge.high).project(x, base.x)
        else:
            x = torch.nan_to_num(x, nan=knowledge.low).clamp(knowledge.low, knowledge.high)
        # What was not touched stays, also where the data leave the range that the attacker was told.
        same = (found.x[:n].to(x.device) == clean.x).flatten(1).all(1)
        x[:n][same] = clean.x[same]
    x[n:] = x[n:].clamp(knowledge.low, knowledge.high)  # also of a base that lies outside
    y = y.clone() if budget.labels else base.y.clone()
    samples = Batch(x, y)
    changed = poison_mask(samples.select(slice(0, n)), clean)
    poisoned = torch.cat([changed, torch.ones(inserted, dtype=torch.bool, device=changed.device)]).cpu()
    most = budget.max_poisoned(n)
    if int(poisoned.sum()) > most:
        raise AttackError(
            f"the attack poisoned {int(poisoned.sum())} samples ({inserted} of them inserted), wanted at most {most}: "
            f"poison_fraction {budget.poison_fraction} of {n}"
        )
    return PoisonedDataset(samples, poisoned)


def _check_form(found: Batch, clean: Batch, classes: int) -> int:
    """Returns the number of inserted samples.

    Raises:
        AttackError: for other shapes or types, and for labels that no class has.
    """
    if not isinstance(found, Batch) or not isinstance(found.x, Tensor) or not isinstance(found.y, Tensor):
        raise AttackError(f"the attack returned {type(found).__name__}, wanted Poison(Batch(x, y))")
    inserted = len(found.x) - len(clean)
    if found.x.shape[1:] != clean.x.shape[1:] or found.x.dtype != clean.x.dtype or inserted < 0:
        raise AttackError(
            f"the attack returned samples {list(found.x.shape)} of {found.x.dtype}, wanted {list(clean.x.shape)} of "
            f"{clean.x.dtype}, and inserted ones behind them"
        )
    if found.y.shape != found.x.shape[:1] or found.y.dtype != clean.y.dtype:
        raise AttackError(
            f"the attack returned labels {list(found.y.shape)} of {found.y.dtype}, wanted {clean.y.dtype} "
            f"[{len(found.x)}]"
        )
    outside = (found.y < 0) | (found.y >= classes)
    if bool(outside.any()):
        raise AttackError(f"the attack returned the label {int(found.y[outside][0])}, wanted 0 to {classes - 1}")
    return inserted


def _base(budget: DatasetBudget, poison: Poison, clean: Batch, inserted: int, classes: int) -> Batch:
    """What each sample was made of: itself when it was clean, or the base of an inserted one."""
    if not inserted:
        return clean
    base = poison.base
    if base is None:
        if budget.content != "any" or not budget.labels:
            raise AttackError(
                "the attack inserted samples without their base, wanted Poison(samples, base) where the budget bounds "
                "content or labels"
            )
        base = poison.samples.select(slice(len(clean), None))
    if base.x.shape != (inserted, *clean.x.shape[1:]) or base.y.shape != (inserted,):
        raise AttackError(f"base: got {list(base.x.shape)}, wanted {[inserted, *clean.x.shape[1:]]}")
    if bool(base.x.isnan().any()) or int(base.y.min()) < 0 or int(base.y.max()) >= classes:
        raise AttackError(
            f"base: got NaN, or labels from {int(base.y.min())} to {int(base.y.max())}, wanted samples of the "
            f"attacker's own, with labels from 0 to {classes - 1}"
        )
    return Batch(torch.cat([clean.x, base.x.to(clean.x)]), torch.cat([clean.y, base.y.to(clean.y)]))


@settings_group
class DatasetPoisonSettings:
    """Settings of attacks that insert or change samples at will.

    Attributes:
        poison_fraction: poisoned samples over the samples of the clean set.
    """

    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
