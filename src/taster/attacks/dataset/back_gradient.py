"""Mislabelled points, optimized through the training of a network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.attacks.dataset.ascent import ascend
from taster.attacks.dataset.flat_samples import (
    draw_rows,
    flat_samples,
    other_labels,
    poisoned_count,
    with_changed,
    with_inserted,
)
from taster.attacks.dataset.unrolled_training import UnrolledSettings, UnrolledTraining, first_params, mean_loss
from taster.attacks.dataset_attack import (
    DatasetAttack,
    DatasetBudget,
    DatasetKnowledge,
    DatasetPoisonSettings,
    Poison,
)
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.utils.setting_types import Count, PositiveCount, PositiveFloat
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "grey box",
    "individual",
    "bilevel",
    "before training",
    note="The network is the attacker's own; white box where the victim trains the same one.",
)
@validate_settings
def back_gradient(
    *,
    poison: DatasetPoisonSettings = DatasetPoisonSettings(),
    training: UnrolledSettings = UnrolledSettings(),
    insert: bool = True,
    points_at_once: PositiveCount | None = None,
    iterations: Count = 30,
    step_size: PositiveFloat = 1.0,
) -> DatasetAttack:
    """Mislabelled points that raise the loss of the attacker's own samples after training, by back-gradient descent.

    The points begin as random training samples under random wrong labels. The derivative goes back through the steps of
    a training that need not have converged.

    Args:
        poison: points over samples of the training set.
        training: the network and its training, which the attacker does for himself.
        insert: whether points are inserted; otherwise they replace the samples that they begin as.
        points_at_once: points that are optimized together, the ones before them fixed; 1 is the paper's greedy attack.
            Default: all.
        iterations: steps of ascent for each of these groups at most. 0, the control, flips the labels alone.
        step_size: the largest step of a point, in the units of the data; halved while a step does not help.

    Raises (when it poisons):
        AttackError: for a share that is no sample, and for data with one class.

    Source: Muñoz-González et al. 2017 (error-generic attack, back-gradient descent).
    """
    budget = DatasetBudget(poison.poison_fraction, insert=insert, content="any", labels=True)

    def attack(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        flat, generator = flat_samples(clean, knowledge, "back_gradient"), knowledge.generator
        count = poisoned_count(budget, len(flat), "back_gradient")
        every = torch.ones(len(flat), dtype=torch.bool, device=flat.x.device)
        rows = draw_rows(every, count, generator)
        points = flat.box.project(flat.x[rows], flat.x[rows])
        labels = other_labels(flat.y[rows], flat.classes, generator)
        start = first_params([flat.x.shape[1], *(training.hidden or []), flat.classes], flat.x, generator)
        if not insert:
            every[rows] = False
        for first in range(0, count if iterations else 0, points_at_once or count):
            # The points of later groups are not there yet.
            before, group = slice(0, first), slice(first, first + (points_at_once or count))
            fixed = UnrolledTraining(
                training,
                torch.cat([flat.x[every], points[before]]),
                torch.cat([flat.y[every], labels[before]]),
                start,
            )
            objective = back_gradient_objective(fixed, labels[group], flat.own_x, flat.own_y)
            points[group] = ascend(objective, points[group], flat.box, iterations=iterations, step_size=step_size)
        if insert:
            return Poison(with_inserted(clean, points, labels))
        return Poison(with_changed(clean, rows, points, labels))

    return DatasetAttack(budget, attack)


def back_gradient_objective(
    training: UnrolledTraining, labels: Tensor, own_x: Tensor, own_y: Tensor
) -> Callable[[Tensor], tuple[float, Callable[[], Tensor]]]:
    """The mean loss of the attacker's own samples after training, as a function of points [k, d].

    Args:
        training: with the samples that do not change.
        labels: of the points, int64 [k].
        own_x, own_y: the attacker's own samples, [m, d] and int64 [m].
    """

    def objective(points: Tensor) -> tuple[float, Callable[[], Tensor]]:
        kept = training.run(points, labels)
        value, outer = mean_loss(kept[-1], own_x, own_y)
        return value, lambda: training.back(kept, points, labels, outer)

    return objective
