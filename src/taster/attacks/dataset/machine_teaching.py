"""Changes training samples a little, so that a convex learner arrives at what the attacker wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from taster.attacks.dataset.ascent import ascend
from taster.attacks.dataset.flat_samples import FlatSamples, flat_samples, poisoned_count, with_changed
from taster.attacks.dataset_attack import (
    DatasetAttack,
    DatasetBudget,
    DatasetKnowledge,
    DatasetPoisonSettings,
    Poison,
)
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.derivatives.convex_models import ConvexModel, ConvexSettings, train_convex
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall
from taster.utils.setting_types import Count, NonNegative, PositiveFloat
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "bilevel",
    "before training",
    note='With target parameters or goal = "reversed" what is learned is the aim, and not its errors.',
)
@validate_settings
def machine_teaching(
    target_parameters: Tensor | None = None,
    *,
    model: ConvexSettings = ConvexSettings(),
    poison: DatasetPoisonSettings = DatasetPoisonSettings(),
    goal: Literal["validation_loss", "reversed"] = "validation_loss",
    epsilon: NonNegative = 1.0,
    effort: NonNegative = 0.0,
    iterations: Count = 30,
    step_size: PositiveFloat | None = None,
) -> DatasetAttack:
    """Training samples moved within l2 balls so that a convex learner ends where the attacker wants; labels stay.

    The derivative of what is learned comes from the condition that the gradient of the training loss be zero.

    Args:
        target_parameters: θ* [classes, d + 1], the last column the bias, for d values a sample: the attacker lowers
            ½ ‖θ − θ*‖². From Python only; it replaces `goal`.
        model: the learner.
        poison: how many samples are changed, drawn at random.
        goal: "validation_loss" raises the mean loss of the attacker's own samples; "reversed" lowers ½ ‖θ − θ*‖² for
            θ* = −θ of the clean set, which decides everything the other way round.
        epsilon: how far each sample may move, in l2.
        effort: weight of ½ Σᵢ ‖xᵢ − xᵢ⁰‖², which the attacker pays for changes (the paper's λ). 0: the ball alone
            bounds them.
        iterations: steps of ascent at most.
        step_size: the largest step of a sample, in the units of the data. Default: ε.

    Raises (when it poisons):
        AttackError: for a target of another shape, and a share that is no sample.
        ModelError: for a learner that does not converge.

    Source: Mei and Zhu 2015 ("Using machine teaching to identify optimal training-set attacks on machine learners"),
        with a squared hinge for SVM and hard balls beside the effort.
    """
    budget = DatasetBudget(poison.poison_fraction, content=LpBall("l2", epsilon))

    def attack(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        flat = flat_samples(clean, knowledge, "machine_teaching")
        poisoned_count(budget, len(flat), "machine_teaching")
        rows = budget.draw(len(flat), knowledge.generator).to(flat.x.device)
        learned = train_convex(model, flat.x, flat.y, flat.classes)
        target = _target(target_parameters, goal, learned)
        objective = teaching_objective(flat, learned, rows, target, effort)
        found = ascend(
            objective,
            flat.x[rows],
            LpBall("l2", epsilon, knowledge.low, knowledge.high),
            iterations=iterations if epsilon > 0 else 0,
            step_size=epsilon if step_size is None else step_size,
        )
        return Poison(with_changed(clean, rows, found, flat.y[rows]))

    return DatasetAttack(budget, attack)


def teaching_objective(
    flat: FlatSamples, learned: ConvexModel, rows: Tensor, target: Tensor | None, effort: float
) -> Callable[[Tensor], tuple[float, Callable[[], Tensor]]]:
    """What the attacker raises, as a function of the samples in some rows, [k, d].

    Args:
        flat: the clean set.
        learned: the model that was trained on it.
        rows: of the training set that the attacker changes, int64 [k].
        target: θ*. None: the loss of the attacker's own samples.
        effort: weight of half the squared changes.
    """
    last, start = learned, flat.x[rows]

    def objective(changed: Tensor) -> tuple[float, Callable[[], Tensor]]:
        nonlocal last
        x = flat.x.clone()
        x[rows] = changed
        model = last = last.retrained(x, flat.y)
        paid = effort / 2 * float((changed - start).square().sum())
        if target is None:
            value = model.mean_loss(flat.own_x, flat.own_y)
        else:
            value = -float((model.theta - target).square().sum()) / 2

        def gradient() -> Tensor:
            outer = target - model.theta if target is not None else model.mean_loss_gradient(flat.own_x, flat.own_y)
            return model.sample_gradients(rows, model.solve(outer)) - effort * (changed - start)

        return value - paid, gradient

    return objective


def _target(given: Tensor | None, goal: str, learned: ConvexModel) -> Tensor | None:
    if given is None:
        return -learned.theta if goal == "reversed" else None
    if not isinstance(given, torch.Tensor) or given.shape != learned.theta.shape:
        found = list(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
        raise AttackError(
            f"machine_teaching: target_parameters: got {found}, wanted a tensor {list(learned.theta.shape)} (classes, "
            "and the values of a sample with the bias behind them)"
        )
    return given.to(learned.theta)
