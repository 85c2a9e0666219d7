"""The samples that a targeted attack is after, and the class that it wants for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.dataset_attack import DatasetKnowledge
from taster.core.batch import Batch
from taster.errors import AttackError
from taster.utils.seeds import derived_seed
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import settings_group

Label = Annotated[int, Field(ge=0)]


@settings_group
class TargetSettings:
    """What a targeted attack is after.

    Attributes:
        target_class: the true class of the targets. None draws one.
        wanted_class: the class that the poisoned model is to put them into. None draws another one.
        targets: how many samples of the target class.
    """

    target_class: Label | None = None
    wanted_class: Label | None = None
    targets: PositiveCount = 1


@dataclass(frozen=True, eq=False)
class Targets:
    """Samples of one class that another is wanted for.

    Attributes:
        x: [k, ...].
        target_class: their true class.
        wanted_class: the attacker's.
    """

    x: Tensor
    target_class: int
    wanted_class: int

    @property
    def wanted(self) -> Batch:
        """The samples with the wanted class as label: what `DatasetAttack.target` returns."""
        return self._labelled(self.wanted_class)

    @property
    def true(self) -> Batch:
        """The samples with their true class as label."""
        return self._labelled(self.target_class)

    def _labelled(self, label: int) -> Batch:
        return Batch(self.x, torch.full((len(self.x),), label, dtype=torch.int64, device=self.x.device))


def draw_targets(settings: TargetSettings, knowledge: DatasetKnowledge) -> Targets:
    """Draws targets among the attacker's own samples: the same for the same knowledge, however often it is asked.

    Args:
        settings: what is asked for.
        knowledge: of the attacker. Its generator is left as it is.

    Raises:
        AttackError: for classes that there are not, or that are the same, and too few samples of the target class.
    """
    own = torch.Generator().manual_seed(derived_seed(knowledge.generator.initial_seed(), "targets"))
    order = torch.randperm(knowledge.classes, generator=own).tolist()
    for name in ("target_class", "wanted_class"):
        label = getattr(settings, name)
        if label is not None and label >= knowledge.classes:
            raise AttackError(f"{name}: got {label}, wanted 0 to {knowledge.classes - 1}")
    target = settings.target_class
    if target is None:
        target = next(label for label in order if label != settings.wanted_class)
    wanted = settings.wanted_class
    if wanted is None:
        wanted = next(label for label in order if label != target)
    if target == wanted:
        raise AttackError(f"wanted_class: got {wanted}, which is target_class too, wanted another one")
    places = (knowledge.own.y == target).nonzero().flatten()
    if len(places) < settings.targets:
        raise AttackError(
            f"targets: got {settings.targets}, wanted at most {len(places)}: the attacker's own samples of class "
            f"{target} (role validation)"
        )
    chosen = places[torch.randperm(len(places), generator=own)[: settings.targets].to(places.device)]
    return Targets(knowledge.own.x[chosen], target, wanted)
