"""A backdoor whose poison has the right labels."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.backdoor import Backdoor, BackdoorSettings, check_target_class, draw_from
from taster.attacks.online_attack import Budget, OnlineAttack
from taster.attacks.triggers import named_trigger
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.perturbations.pgd import LpBall, Norm, pgd
from taster.perturbations.sample_gradient import cross_entropy_gradient
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings


@threat(
    "targeted",
    "integrity",
    "white box",
    "universal",
    "none",
    "stream step",
    note="What is used is one trigger for all; the perturbation beneath it is each sample's own.",
)
@validate_settings
def clean_label_backdoor(
    generator: torch.Generator,
    *,
    trigger: str = "patch",
    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.1,
    norm: Norm = "linf",
    pgd_steps: PositiveCount = 10,
    backdoor: BackdoorSettings = BackdoorSettings(),
) -> OnlineAttack:
    """Samples of the target class, perturbed so that the model no longer knows them, with the trigger on.

    What the perturbation takes away of the class, the trigger has to stand for:

        x ← trigger(PGD(x)), which ascends ℓ(x, y; θ_t) by the present model, y unchanged

    Args:
        generator: draws which samples of the target class are poisoned.
        trigger: "patch", "blended", or a function of one's own, see `taster.attacks.triggers.named_trigger`.
        epsilon: radius of the perturbation's ball, in the units of the data; the trigger is put on after it.
        norm: of the ball.
        pgd_steps: of length 2ε / `pgd_steps`.
        backdoor: see `taster.attacks.BackdoorSettings`. Covers are other classes' triggered samples.

    Raises:
        AttackError: for an unknown trigger; (when called) if the model has no output for the target class, or the
            trigger cannot be put on.

    Source: Turner et al. 2019, Section 4.2 (adversarial perturbations), by the present model in place of a robust one.
    """
    planted = Backdoor(named_trigger(trigger), backdoor.target_class)
    poison = Budget(LpBall("linf", 1.0), backdoor.poison_fraction)
    cover = Budget(poison.ball, backdoor.cover_fraction)
    budget = Budget(poison.ball, backdoor.poison_fraction + backdoor.cover_fraction)
    ball = LpBall(norm, epsilon)

    def attack(clean: Batch, view: View) -> Batch:
        check_target_class(planted.target_class, view.outputs(clean.x[:1]))
        own = clean.y == planted.target_class
        chosen = draw_from(own, poison.max_poisoned(len(clean)), generator)
        covers = draw_from(~own, cover.max_poisoned(len(clean)), generator)
        x = clean.x.clone()
        if len(chosen):
            x[chosen] = planted.trigger(_unknown(clean.select(chosen), view))
        if len(covers):
            x[covers] = planted.trigger(clean.x[covers])
        return Batch(x, clean.y)

    def _unknown(samples: Batch, view: View) -> Tensor:
        gradient = cross_entropy_gradient(view, samples.y)
        return pgd(gradient, samples.x, ball, steps=pgd_steps, step_size=2 * epsilon / pgd_steps)

    return OnlineAttack(budget, accumulate=attack, trigger=attack, backdoor=planted)
