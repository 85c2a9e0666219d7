"""The samples of a training set that clean-label poison is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.attacks.dataset_attack import DatasetBudget, DatasetKnowledge
from taster.attacks.targeted.targets import Targets
from taster.core.batch import Batch
from taster.errors import AttackError
from taster.utils.seeds import derived_seed


def draw_bases(clean: Batch, targets: Targets, budget: DatasetBudget, knowledge: DatasetKnowledge) -> Tensor:
    """Draws places of samples of the wanted class, as many as the budget allows: the same for the same knowledge,
    whichever attack asks.

    Args:
        clean: the training set.
        targets: have the wanted class.
        budget: has the share of samples that are poisoned.
        knowledge: of the attacker. Its generator is left as it is.

    Returns:
        int64 [k], in ascending order.

    Raises:
        AttackError: for fewer samples of the class.
    """
    count = budget.max_poisoned(len(clean))
    places = (clean.y == targets.wanted_class).nonzero().flatten()
    if len(places) < count:
        raise AttackError(
            f"poison_fraction: got {budget.poison_fraction}, which is {count} samples of {len(clean)}, wanted at most "
            f"the {len(places)} of class {targets.wanted_class}, which the poison is made of"
        )
    own = torch.Generator().manual_seed(derived_seed(knowledge.generator.initial_seed(), "bases"))
    order = torch.randperm(len(places), generator=own)[:count].to(places.device)
    chosen: Tensor = places[order].sort().values
    return chosen


def with_poison(clean: Batch, places: Tensor, x: Tensor) -> Batch:
    """The training set with the content of some samples replaced.

    Args:
        clean: x [n, ...] and y [n].
        places: int64 [k].
        x: [k, ...].
    """
    changed = clean.x.clone()
    changed[places] = x.to(changed)
    return Batch(changed, clean.y.clone())


def largest_bases(clean: Batch, label: int, count: int, size: Callable[[Batch], Tensor]) -> Tensor:
    """Places of the samples of a class that are largest by a measure.

    Args:
        clean: the training set.
        label: the class.
        count: how many; at most as many as there are of the class.
        size: of samples, [n].

    Returns:
        int64 [count], in ascending order.
    """
    places = (clean.y == label).nonzero().flatten()
    chosen: Tensor = places[size(clean.select(places)).topk(count).indices].sort().values
    return chosen
