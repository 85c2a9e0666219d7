"""Attacks: one file each. To add one, write it and name it here."""

from taster.attacks.accumulative import accumulative
from taster.attacks.accumulative_updates import accumulative_updates
from taster.attacks.alie import alie
from taster.attacks.campaign import Attack, Budget, Campaign, Draw
from taster.attacks.direct_gradient import direct_gradient
from taster.attacks.foreign_images import foreign_images
from taster.attacks.forming import Forming
from taster.attacks.gaussian_updates import gaussian_updates
from taster.attacks.generative import generative
from taster.attacks.guard_aware import guard_aware
from taster.attacks.ipm import ipm
from taster.attacks.label_flip import label_flip
from taster.attacks.mimic import mimic
from taster.attacks.min_max import min_max, min_sum
from taster.attacks.no_attack import none
from taster.attacks.random_noise import random_noise
from taster.attacks.rehearsal import Outcome, Rehearsal
from taster.attacks.reverse_trigger import reverse_trigger
from taster.attacks.schedule import (
    Observation,
    Schedule,
    Stop,
    after_steps,
    at_accuracy_floor,
    at_loss_amplification,
)
from taster.attacks.sign_flip import sign_flip
from taster.attacks.update_campaign import Collusion, UpdateAttack, UpdateBudget, UpdateCampaign
from taster.attacks.vanilla_trigger import vanilla_trigger

ATTACKS = {
    attack.__name__: attack
    for attack in (
        none,
        random_noise,
        label_flip,
        foreign_images,
        vanilla_trigger,
        accumulative,
        guard_aware,
        direct_gradient,
        generative,
    )
}

UPDATE_ATTACKS = {
    attack.__name__: attack
    for attack in (
        accumulative_updates,
        reverse_trigger,
        sign_flip,
        gaussian_updates,
        ipm,
        alie,
        min_max,
        min_sum,
        mimic,
    )
}
"""Attacks by clients of a federation, on what they send."""

__all__ = [
    "ATTACKS",
    "UPDATE_ATTACKS",
    "Attack",
    "Budget",
    "Campaign",
    "Collusion",
    "Draw",
    "Forming",
    "Observation",
    "Outcome",
    "Rehearsal",
    "Schedule",
    "Stop",
    "UpdateAttack",
    "UpdateBudget",
    "UpdateCampaign",
    "accumulative",
    "accumulative_updates",
    "after_steps",
    "alie",
    "at_accuracy_floor",
    "at_loss_amplification",
    "direct_gradient",
    "foreign_images",
    "gaussian_updates",
    "generative",
    "guard_aware",
    "ipm",
    "label_flip",
    "mimic",
    "min_max",
    "min_sum",
    "none",
    "random_noise",
    "reverse_trigger",
    "sign_flip",
    "vanilla_trigger",
]
