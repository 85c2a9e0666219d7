"""Wrong labels: the plainest poison there is."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from taster.attacks.labels import wrong_labels
from taster.attacks.online_attack import Budget, OnlineAttack
from taster.core.types import Batch
from taster.core.view import View
from taster.perturbations.pgd import LpBall
from taster.utils.settings import validate_settings


@validate_settings
def label_flip(
    generator: torch.Generator,
    *,
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
    source_class: Annotated[int, Field(ge=0)] | None = None,
    target_class: Annotated[int, Field(ge=0)] | None = None,
) -> OnlineAttack:
    """Samples under labels that are not theirs, in the stream and in the trigger; the samples stay as they are.

        y' = target, or a class other than y, each as likely

    Args:
        generator: draws which samples are poisoned, and their labels.
        poison_fraction: share of a batch that is poisoned.
        source_class: the class whose samples are poisoned; None poisons all classes.
        target_class: the label they get; None draws one.

    Raises (when called):
        AttackError: for a target that the model has no output for.

    Source: Biggio et al. 2011; the targeted form Tolpegin et al. 2020.
    """
    budget = Budget(LpBall("linf", 0.0), poison_fraction, labels=True)

    def attack(clean: Batch, view: View) -> Batch:
        chosen = budget.draw_mask(len(clean), generator).to(clean.y.device)
        if source_class is not None:
            chosen &= clean.y == source_class
        wrong = wrong_labels(clean.y, clean.x, view, generator, target_class)
        return Batch(clean.x, torch.where(chosen, wrong, clean.y))

    return OnlineAttack(budget, accumulate=attack, trigger=attack)
