"""What backdoor attacks share that relabel: triggered samples of other classes under the target class."""

from __future__ import annotations

import torch

from taster.attacks.backdoor import Backdoor, BackdoorSettings, check_target_class, draw_from
from taster.attacks.online_attack import Budget, OnlineAttack
from taster.attacks.triggers import TriggerFn
from taster.core.batch import Batch
from taster.core.view import View
from taster.perturbations.pgd import LpBall


def dirty_label_backdoor(
    backdoor: Backdoor,
    settings: BackdoorSettings,
    generator: torch.Generator,
    *,
    epsilon: float = 1.0,
    training_trigger: TriggerFn | None = None,
) -> OnlineAttack:
    """Poisons a share of each batch, that of the trigger step among them.

    Args:
        backdoor: what is planted.
        settings: how much of it.
        generator: draws which samples are poisoned.
        epsilon: the most that the trigger changes a value; 1 replaces it.
        training_trigger: put on the stream's samples in place of the backdoor's trigger.

    Source: Gu et al. 2017, Section 4 (single target attack).
    """
    poison = Budget(LpBall("linf", epsilon), settings.poison_fraction, labels=True)
    cover = Budget(poison.ball, settings.cover_fraction)
    budget = Budget(poison.ball, settings.poison_fraction + settings.cover_fraction, labels=True)
    put_on = training_trigger or backdoor.trigger

    def attack(clean: Batch, view: View) -> Batch:
        check_target_class(backdoor.target_class, view.outputs(clean.x[:1]))
        count, covers = poison.max_poisoned(len(clean)), cover.max_poisoned(len(clean))
        chosen = draw_from(clean.y != backdoor.target_class, count + covers, generator)
        x, y = clean.x.clone(), clean.y.clone()
        if len(chosen):
            x[chosen] = put_on(clean.x[chosen])
            y[chosen[:count]] = backdoor.target_class
        return Batch(x, y)

    return OnlineAttack(budget, accumulate=attack, trigger=attack, backdoor=backdoor)
