"""Attacks: one file each. To add one, write it and name it here."""

from taster.attacks.accumulative import accumulative
from taster.attacks.campaign import Attack, Budget, Campaign, Draw
from taster.attacks.direct_gradient import direct_gradient
from taster.attacks.foreign_images import foreign_images
from taster.attacks.forming import Forming
from taster.attacks.generative import generative
from taster.attacks.guard_aware import guard_aware
from taster.attacks.label_flip import label_flip
from taster.attacks.no_attack import none
from taster.attacks.random_noise import random_noise
from taster.attacks.rehearsal import Outcome, Rehearsal
from taster.attacks.schedule import (
    Observation,
    Schedule,
    Stop,
    after_steps,
    at_accuracy_floor,
    at_loss_amplification,
)
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

__all__ = [
    "ATTACKS",
    "Attack",
    "Budget",
    "Campaign",
    "Draw",
    "Forming",
    "Observation",
    "Outcome",
    "Rehearsal",
    "Schedule",
    "Stop",
    "accumulative",
    "after_steps",
    "at_accuracy_floor",
    "at_loss_amplification",
    "direct_gradient",
    "foreign_images",
    "generative",
    "guard_aware",
    "label_flip",
    "none",
    "random_noise",
    "vanilla_trigger",
]
