"""Training sets as attacks on linear and kernel machines see them: flat, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taster.attacks.dataset_attack import DatasetBudget, DatasetKnowledge
from taster.core.batch import Batch, check_tensors
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall


@dataclass(frozen=True, eq=False)
class FlatSamples:
    """A training set and the attacker's own samples, flat and in float64.

    Attributes:
        x, y: the training set, [n, d] and int64 [n].
        own_x, own_y: the attacker's own samples, [m, d] and int64 [m], on the same device.
        classes: number of classes.
        box: the range of the data.
    """

    x: Tensor
    y: Tensor
    own_x: Tensor
    own_y: Tensor
    classes: int
    box: LpBall

    def __len__(self) -> int:
        return len(self.x)


def flat_samples(clean: Batch, knowledge: DatasetKnowledge, attack: str) -> FlatSamples:
    """Flattens samples [n, ...] to [n, d].

    Raises:
        AttackError: for samples that are no floating-point numbers or not finite, own samples of another shape, and
            labels that no class has.
    """
    own = check_tensors(knowledge.own, attack)
    if own.x.shape[1:] != clean.x.shape[1:]:
        raise AttackError(
            f"{attack}: the attacker's own samples: got {list(own.x.shape)}, wanted [m, "
            f"{', '.join(map(str, clean.x.shape[1:]))}] as in the training set"
        )
    for name, part in (("training set", clean), ("attacker's own samples", own)):
        if not part.x.is_floating_point() or not bool(part.x.isfinite().all()):
            raise AttackError(
                f"{attack}: {name}: got {part.x.dtype} or values that are not finite, wanted finite floats"
            )
        outside = (part.y < 0) | (part.y >= knowledge.classes)
        if bool(outside.any()):
            raise AttackError(
                f"{attack}: {name}: got the label {int(part.y[outside][0])}, wanted 0 to {knowledge.classes - 1}"
            )
    device = clean.x.device
    return FlatSamples(
        clean.x.detach().flatten(1).double(),
        clean.y,
        own.x.detach().flatten(1).to(device, torch.float64),
        own.y.to(device),
        knowledge.classes,
        LpBall("linf", knowledge.high - knowledge.low, knowledge.low, knowledge.high),
    )


def poisoned_count(budget: DatasetBudget, samples: int, attack: str) -> int:
    """The number of samples to poison.

    Raises:
        AttackError: if the share comes to none.
    """
    count = budget.max_poisoned(samples)
    if count < 1:
        raise AttackError(
            f"{attack}: poison_fraction: got {budget.poison_fraction}, which is no sample of {samples}, wanted at "
            f"least {1 / samples:.2g}"
        )
    return count


def with_changed(clean: Batch, rows: Tensor, x: Tensor, y: Tensor) -> Batch:
    """The training set with samples in some rows replaced by flat ones [k, d] under labels [k]."""
    new_x, new_y = clean.x.clone(), clean.y.clone()
    new_x[rows] = _like(x, clean.x)
    new_y[rows] = y.to(new_y)
    return Batch(new_x, new_y)


def with_inserted(clean: Batch, x: Tensor, y: Tensor) -> Batch:
    """The training set with samples [k, d] or [k, ...] under labels [k] behind it."""
    return Batch(torch.cat([clean.x, _like(x, clean.x)]), torch.cat([clean.y, y.to(clean.y)]))


def draw_rows(allowed: Tensor, count: int, generator: torch.Generator, *, again: bool = False) -> Tensor:
    """Random rows among those allowed, int64 [count].

    Args:
        allowed: bool [n]; at least `count` are set, or one of them with `again`.
        count: how many.
        generator: draws.
        again: whether a row may be drawn several times where there are fewer than wanted.
    """
    places = allowed.nonzero().flatten()
    order = torch.randperm(len(places), generator=generator, device=generator.device).to(places.device)
    if again and len(places) < count:
        order = order.repeat(-(-count // len(places)))
    return places[order[:count]]


def other_labels(y: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Random labels of other classes, int64 [n].

    Raises:
        AttackError: where there is one class.
    """
    if classes < 2:
        raise AttackError(f"got {classes} class, wanted at least 2 to have a wrong label")
    shift = torch.randint(1, classes, y.shape, generator=generator, device=generator.device).to(y.device)
    return (y + shift) % classes


def _like(x: Tensor, samples: Tensor) -> Tensor:
    return x.detach().reshape(len(x), *samples.shape[1:]).to(samples)
