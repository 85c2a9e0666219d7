"""Feature collision: a sample that looks like its own class and has the features of a target."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, DatasetPoisonSettings, Poison
from taster.attacks.targeted.bases import draw_bases, with_poison
from taster.attacks.targeted.surrogate_features import SurrogateSettings, train_surrogates
from taster.attacks.targeted.targets import TargetSettings, draw_targets
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.perturbations.forward_backward import forward_backward
from taster.perturbations.pgd import LpBall
from taster.utils.setting_types import NonNegative, PositiveCount, PositiveFloat
from taster.utils.settings import validate_settings


@threat("targeted", "integrity", "white box", "individual", "feature space", "before training")
@validate_settings
def feature_collision(
    *,
    target: TargetSettings = TargetSettings(),
    poison: DatasetPoisonSettings = DatasetPoisonSettings(poison_fraction=0.01),
    surrogate: SurrogateSettings = SurrogateSettings(),
    epsilon: NonNegative | None = None,
    similarity: NonNegative = 0.25,
    opacity: Annotated[float, Field(ge=0, le=1)] = 0.0,
    steps: PositiveCount = 200,
    step_size: PositiveFloat = 0.01,
    tolerance: NonNegative = 1e-3,
) -> DatasetAttack:
    """Moves samples of the wanted class to the target's place in feature space, under their own labels (Poison Frogs).

    For each base b with its target t a poison minimises ‖f(x) − f(t)‖² + β ‖x − b‖², f the features, by
    forward-backward splitting; with several nets the mean of the first term over them. All poisons are made in one
    batch; of several targets they take turns.

    Args:
        target: what is wanted.
        poison: how many samples are changed. 1 / n is the one poison of the paper.
        surrogate: whose features.
        epsilon: the most that a value may change, in the units of the data, beside the penalty. None: any change, as in
            the paper, where β alone keeps the poison near to its base.
        similarity: β₀. β = β₀ (d / m)², d the number of features and m that of a sample's values.
        opacity: γ of the watermark: the base, as which the poison begins and near to which it stays, is
            γ t + (1 − γ) b. 0: none.
        steps: the most steps.
        step_size: λ of the first step.
        tolerance: see `taster.perturbations.forward_backward.forward_backward`.

    Raises (when it poisons):
        AttackError: for classes, targets or bases that there are not, and a model that is no net.
        ModelError: for a layer that there is not.

    Source: Shafahi et al. 2018, Eq. 1 and Algorithm 1, the watermark of Section 4.2; β after their rule
        (β₀ · 2048² / m² with 2,048 features).
    """
    budget = DatasetBudget(poison.poison_fraction, content="any" if epsilon is None else LpBall("linf", epsilon))

    def wanted(knowledge: DatasetKnowledge) -> Batch:
        return draw_targets(target, knowledge).wanted

    def attack(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        targets = draw_targets(target, knowledge)
        places = draw_bases(clean, targets, budget, knowledge)
        features = train_surrogates(surrogate, clean, knowledge, "feature_collision")
        low, high = knowledge.low, knowledge.high
        ball = LpBall("linf", high - low if epsilon is None else epsilon, low, high)
        turns = torch.arange(len(places), device=places.device) % len(targets.x)
        at = targets.x.to(clean.x)[turns]
        goals = features.fixed(at)

        def distance(x: Tensor) -> tuple[Tensor, Tensor]:
            moved = x.detach().requires_grad_()
            each = [(f - goal).square().sum(1) for f, goal in zip(features(moved), goals, strict=True)]
            values = torch.stack(each).mean(0)
            return values.detach(), torch.autograd.grad(values.sum(), moved)[0]

        width = sum(goal.shape[1] for goal in goals) / len(goals)
        bases = clean.x[places]
        marked = ball.project(opacity * at + (1 - opacity) * bases, bases)
        found = forward_backward(
            distance,
            marked,
            ball,
            weight=similarity * (width / bases[0].numel()) ** 2,
            steps=steps,
            step_size=step_size,
            tolerance=tolerance,
        )
        return Poison(with_poison(clean, places, found))

    return DatasetAttack(budget, attack, target=wanted)
