"""Poisons whose features surround those of a target, made together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, DatasetPoisonSettings, Poison
from taster.attacks.targeted.bases import draw_bases, with_poison
from taster.attacks.targeted.surrogate_features import SurrogateFeatures, SurrogateSettings, train_surrogates
from taster.attacks.targeted.targets import TargetSettings, draw_targets
from taster.core.batch import Batch
from taster.perturbations.pgd import LpBall
from taster.perturbations.projected_adam import projected_adam
from taster.utils.setting_types import NonNegative, PositiveCount, PositiveFloat
from taster.utils.settings import settings_group

_EVERY = 20
"""Steps between two looks at whether the descent has converged."""

Combine = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Coefficients [T, k] by which poisons' features [k, d] are to make up those of targets [T, d], given those of the step
before."""


@settings_group
class PolytopeSettings(DatasetPoisonSettings):
    """Settings of the attacks that surround a target in feature space.

    Attributes:
        poison_fraction: poisoned samples over the samples of the clean set.
        epsilon: the most that a value may change, in the units of the data.
        steps: the most steps of Adam.
        step_size: of Adam, in the units of the data.
        tolerance: the descent ends when twenty steps have lowered the loss by less than this share of it.
        stay: weight of the mean of ‖φ(xⱼ) − φ(bⱼ)‖² / ‖φ(bⱼ)‖², for an attacker who knows that a defence looks at a
            sample's neighbours: it holds every poison among the features of its own class. 0: none, as published.
    """

    poison_fraction: Annotated[float, Field(gt=0, le=1)] = 0.01
    epsilon: NonNegative = 8 / 255
    steps: PositiveCount = 300
    step_size: PositiveFloat = 0.005
    tolerance: NonNegative = 1e-3
    stay: NonNegative = 0.0


def polytope_attack(
    name: str,
    combine: Combine,
    target: TargetSettings,
    surrogate: SurrogateSettings,
    settings: PolytopeSettings,
    *,
    mean_target: bool,
) -> DatasetAttack:
    """An attack that surrounds targets.

    Args:
        name: of the attack.
        combine: chooses the coefficients.
        target, surrogate, settings: of the attack.
        mean_target: whether the mean of the targets' features is aimed at, in place of each.
    """
    ball = LpBall("linf", settings.epsilon)
    budget = DatasetBudget(settings.poison_fraction, content=ball)

    def wanted(knowledge: DatasetKnowledge) -> Batch:
        return draw_targets(target, knowledge).wanted

    def attack(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        targets = draw_targets(target, knowledge)
        places = draw_bases(clean, targets, budget, knowledge)
        features = train_surrogates(surrogate, clean, knowledge, name)
        goals = features.fixed(targets.x.to(clean.x))
        if mean_target:
            goals = [goal.mean(0, keepdim=True) for goal in goals]
        inside = LpBall("linf", settings.epsilon, knowledge.low, knowledge.high)
        found = surround(features, goals, clean.x[places], inside, combine, settings)
        return Poison(with_poison(clean, places, found))

    return DatasetAttack(budget, attack, target=wanted)


def surround(
    features: SurrogateFeatures,
    goals: list[Tensor],
    bases: Tensor,
    ball: LpBall,
    combine: Combine,
    settings: PolytopeSettings,
) -> Tensor:
    """Descends the mean over nets, layers and targets of ½ ‖φ(t) − Σⱼ cⱼ φ(xⱼ)‖² / ‖φ(t)‖² in all poisons together,
    the coefficients chosen anew before each step.

    Args:
        features: φ.
        goals: φ(t), [T, d] for each net and layer.
        bases: what the poisons are made of, [k, ...].
        ball: around each.
        combine: chooses c.
        settings: see `PolytopeSettings`.

    Returns:
        the poisons [k, ...] of the step with the least loss.
    """
    homes = features.fixed(bases)
    before: list[Tensor | None] = [None] * len(goals)
    best = (float("inf"), bases)
    losses: list[float] = []

    def ascent(x: Tensor) -> Tensor | None:
        nonlocal best
        at = x.detach().requires_grad_()
        found = features(at)
        parts = []
        for i, (points, goal, home) in enumerate(zip(found, goals, homes, strict=True)):
            coefficients = combine(points.detach(), goal, before[i])
            before[i] = coefficients
            made = coefficients.to(points) @ points
            parts.append(_relative(made - goal, goal) / 2)
            if settings.stay:
                parts.append(settings.stay * _relative(points - home, home))
        loss = torch.stack(parts).sum() / len(goals)
        value = float(loss.detach())
        losses.append(value)
        if value < best[0]:
            best = (value, x)
        if len(losses) > _EVERY and min(losses[:-_EVERY]) - best[0] <= settings.tolerance * best[0]:
            return None
        return -torch.autograd.grad(loss, at)[0]

    last = projected_adam(ascent, bases, ball, steps=settings.steps, step_size=settings.step_size)
    if len(losses) == settings.steps:
        ascent(last)  # nobody has looked at what the last step came to
    return best[1]


def _relative(difference: Tensor, to: Tensor) -> Tensor:
    """The mean over rows of ‖difference‖² / ‖to‖²."""
    size = to.square().sum(1).clamp_min(torch.finfo(to.dtype).tiny)
    return (difference.square().sum(1) / size).mean()
