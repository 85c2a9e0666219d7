"""Random noise: the control that every poisoning attack has to beat."""

from __future__ import annotations

import torch

from taster.attacks.online_attack import OnlineAttack, PerturbationSettings
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "black box",
    "individual",
    "none",
    "stream step",
    note="A control: noise of the size of an attack's, with no aim.",
)
@validate_settings
def random_noise(
    generator: torch.Generator, *, perturbation: PerturbationSettings = PerturbationSettings()
) -> OnlineAttack:
    """Noise of size ε on the samples that an attack would poison, in the stream and in the trigger.

    Args:
        generator: draws the noise and which samples get it.
        perturbation: see `taster.attacks.PerturbationSettings`. With the norm "linf" each value changes by ±ε, with
            "l2" each sample by a random direction of length ε.

    Source: control of Pang et al. 2021, Fig. 2.
    """
    budget = perturbation.budget()

    def attack(clean: Batch, view: View) -> Batch:
        x = clean.x.clone()
        chosen = budget.draw_mask(len(clean), generator)
        x[chosen] = budget.ball.random_boundary(clean.x[chosen], generator)
        return Batch(x, clean.y)

    return OnlineAttack(budget, accumulate=attack, trigger=attack)
