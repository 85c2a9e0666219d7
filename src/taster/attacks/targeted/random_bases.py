"""The control of targeted attacks: the same bases, changed at random."""

from __future__ import annotations

from typing import Literal

from taster.attacks.dataset.flat_samples import other_labels
from taster.attacks.dataset_attack import (
    ContentChange,
    DatasetAttack,
    DatasetBudget,
    DatasetKnowledge,
    DatasetPoisonSettings,
    Poison,
)
from taster.attacks.targeted.bases import draw_bases, with_poison
from taster.attacks.targeted.targets import TargetSettings, draw_targets
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.perturbations.pgd import LpBall
from taster.utils.setting_types import NonNegative
from taster.utils.settings import validate_settings


@threat(
    "targeted",
    "integrity",
    "black box",
    "individual",
    "none",
    "before training",
    note="A control, which knows nothing of its target but its class.",
)
@validate_settings
def random_bases(
    *,
    target: TargetSettings = TargetSettings(),
    poison: DatasetPoisonSettings = DatasetPoisonSettings(poison_fraction=0.01),
    perturbation: Literal["noise", "label_flip", "none"] = "noise",
    epsilon: NonNegative = 8 / 255,
) -> DatasetAttack:
    """Changes at random the samples that a targeted attack would change, and measures the same targets: what such an
    attack does by chance.

    Args:
        target: whose success is measured.
        poison: how many samples are changed.
        perturbation: "noise" adds ±ε to each value; "label_flip" gives each sample a random wrong label; "none" changes
            nothing, so that the targets are measured without an attack.
        epsilon: ε, in the units of the data.

    Raises (when it poisons):
        AttackError: for classes, targets or bases that there are not.

    Source: taster's own.
    """
    content: ContentChange = LpBall("linf", epsilon) if perturbation == "noise" else "none"
    budget = DatasetBudget(poison.poison_fraction, content=content, labels=perturbation == "label_flip")

    def wanted(knowledge: DatasetKnowledge) -> Batch:
        return draw_targets(target, knowledge).wanted

    def attack(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        places = draw_bases(clean, draw_targets(target, knowledge), budget, knowledge)
        if perturbation == "none":
            return Poison(clean)
        if perturbation == "label_flip":
            y = clean.y.clone()
            y[places] = other_labels(y[places], knowledge.classes, knowledge.generator)
            return Poison(Batch(clean.x, y))
        ball = LpBall("linf", epsilon, knowledge.low, knowledge.high)
        return Poison(with_poison(clean, places, ball.random_boundary(clean.x[places], knowledge.generator)))

    return DatasetAttack(budget, attack, target=wanted)
