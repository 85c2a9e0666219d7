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
from taster.errors import AttackError
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
    systematic: bool = False,
) -> OnlineAttack:
    """Unchanged samples under wrong labels, in the stream and in the trigger.

        y' = target class, or a class other than y, all equally likely, or the one after y

    Args:
        generator: draws which samples are poisoned, and their labels.
        poison_fraction: fraction of each batch that is poisoned.
        source_class: class whose samples are poisoned. None: all classes.
        target_class: label that they get. None: a wrong one.
        systematic: whether that is always the one of the class after their own, and 0 after the last. A learner cannot
            average such labels away.

    Raises:
        AttackError: for a target class together with systematic labels. When called: if the model has no output for the
            target class.

    Source: Biggio et al. 2011; the targeted form Tolpegin et al. 2020; systematic noise as in Shen and Sanghavi 2019.
    """
    if systematic and target_class is not None:
        raise AttackError(f"systematic: got true with target_class {target_class}, wanted one of them")
    budget = Budget(LpBall("linf", 0.0), poison_fraction, labels=True)

    def attack(clean: Batch, view: View) -> Batch:
        chosen = budget.draw_mask(len(clean), generator).to(clean.y.device)
        if source_class is not None:
            chosen &= clean.y == source_class
        wrong = wrong_labels(clean.y, clean.x, view, generator, target_class, systematic=systematic)
        return Batch(clean.x, torch.where(chosen, wrong, clean.y))

    return OnlineAttack(budget, accumulate=attack, trigger=attack)
