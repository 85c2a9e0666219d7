"""Label flipping."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from taster.attacks.online_attack import Budget, OnlineAttack
from taster.attacks.poison_init import wrong_labels
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.perturbations.pgd import LpBall
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "black box",
    "none",
    "label",
    "stream step",
    note="With `source_class` it is targeted at that class.",
)
@validate_settings
def label_flip(
    generator: torch.Generator,
    *,
    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
    source_class: Annotated[int, Field(ge=0)] | None = None,
    target_class: Annotated[int, Field(ge=0)] | None = None,
) -> OnlineAttack:
    """Unchanged samples under wrong labels, in the stream and in the trigger.

        y' = target class, or a class other than y, all equally likely

    Args:
        generator: draws which samples are poisoned, and their labels.
        poison_fraction: fraction of each batch that is poisoned.
        source_class: class whose samples are poisoned. None: all classes.
        target_class: label that they get. None: a random wrong one.

    Raises (when called):
        AttackError: if the model has no output for the target class.

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
