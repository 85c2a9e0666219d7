"""Points that are inserted into the training set of a support vector machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.attacks.dataset.ascent import ascend
from taster.attacks.dataset.flat_samples import FlatSamples, draw_rows, flat_samples, poisoned_count, with_inserted
from taster.attacks.dataset.svm_machine import Kernel, KernelName, SupportVectorMachine, train_svm
from taster.attacks.dataset_attack import (
    DatasetAttack,
    DatasetBudget,
    DatasetKnowledge,
    DatasetPoisonSettings,
    Poison,
)
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.errors import AttackError
from taster.utils.setting_types import Count, NonNegative, PositiveFloat
from taster.utils.settings import validate_settings


@threat(
    "indiscriminate",
    "availability",
    "white box",
    "individual",
    "bilevel",
    "before training",
    note="The machine is the attacker's own: against another learner it is grey box.",
)
@validate_settings
def svm_poisoning(
    *,
    poison: DatasetPoisonSettings = DatasetPoisonSettings(poison_fraction=0.01),
    kernel: KernelName = "linear",
    c: PositiveFloat = 1.0,
    gamma: PositiveFloat | None = None,
    attacked_class: Count | None = None,
    attacking_class: Count | None = None,
    iterations: Count = 100,
    step_size: PositiveFloat = 1.0,
    tolerance: NonNegative = 1e-6,
) -> DatasetAttack:
    """Points that raise the hinge loss of a support vector machine, by ascent through its conditions of optimality.

    Each point begins as a sample of the attacked class under the label of the attacking one. Points are added one
    after the other. With more than two classes only samples of these two count, as in the machine of a pair of classes
    of one-against-one. The kernel of all pairs of samples is kept in memory.

    Args:
        poison: inserted points over samples of the training set, those of all classes.
        kernel: "linear" or "rbf".
        c: C, the weight of the hinge losses.
        gamma: γ of exp(−γ ‖a − b‖²). Default: 1 / (d · variance), as scikit-learn's "scale".
        attacked_class: whose samples the points begin as. Default, with two classes: the one that is not the attacking
            one, or a random one.
        attacking_class: whose label they have. Default, with two classes: the other one.
        iterations: steps of ascent for each point at most. 0, the control, inserts the samples that points begin as.
        step_size: the largest step, in the units of the data; halved while a step does not help.
        tolerance: least gain of the mean hinge loss that a step is to have.

    Raises (when it poisons):
        AttackError: for more than two classes of which these two are not named, the same class twice, a class that is
            not there or without samples, and a share that is no sample.

    Source: Biggio, Nelson and Laskov 2012, Algorithm 1 and Eq. 10; several points greedily, one after the other.
    """
    budget = DatasetBudget(poison.poison_fraction, insert=True, content="any", labels=True)

    def attack(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        flat = flat_samples(clean, knowledge, "svm_poisoning")
        count = poisoned_count(budget, len(flat), "svm_poisoning")
        attacked, attacking = _pair(attacked_class, attacking_class, flat.classes, knowledge.generator)
        pair = _of_pair(flat, attacked, attacking)
        start = pair.x[draw_rows(pair.y == 0, count, knowledge.generator, again=True)]
        width = gamma if gamma is not None else 1 / (flat.x.shape[1] * max(float(pair.x.var()), 1e-12))
        machine = Kernel(kernel, width)
        x, sign = pair.x, 2.0 * pair.y.double() - 1
        for point in pair.box.project(start, start)[:, None]:
            if iterations:
                objective = insertion_objective(machine, c, x, sign, pair.own_x, 2.0 * pair.own_y.double() - 1)
                point = ascend(
                    objective, point, pair.box, iterations=iterations, step_size=step_size, tolerance=tolerance
                )
            x, sign = torch.cat([x, point]), torch.cat([sign, sign.new_ones(1)])
        return Poison(with_inserted(clean, x[len(pair) :], torch.full((count,), attacking)))

    return DatasetAttack(budget, attack)


def insertion_objective(
    kernel: Kernel, c: float, x: Tensor, sign: Tensor, own_x: Tensor, own_sign: Tensor
) -> Callable[[Tensor], tuple[float, Callable[[], Tensor]]]:
    """The mean hinge loss of the attacker's own samples, as a function of an inserted point [1, d] of the sign 1.

    Args:
        kernel: of the machine.
        c: C, the weight of the hinge losses.
        x: the other samples, [n, d].
        sign: −1 or 1, [n].
        own_x, own_sign: the attacker's own samples, [m, d] and [m].
    """
    known = kernel(x, x)
    signs = torch.cat([sign, sign.new_ones(1)])

    last: SupportVectorMachine | None = None

    def objective(point: Tensor) -> tuple[float, Callable[[], Tensor]]:
        nonlocal last
        cross = kernel(x, point)
        gram = torch.cat([torch.cat([known, cross], 1), torch.cat([cross.T, kernel(point, point)], 1)])
        machine = last = train_svm(kernel, c, torch.cat([x, point]), signs, gram=gram, near=last)
        value = machine.hinge_loss(own_x, own_sign)
        return value, lambda: machine.hinge_loss_slope(len(x), own_x, own_sign)[None]

    return objective


def _pair(attacked: int | None, attacking: int | None, classes: int, generator: torch.Generator) -> tuple[int, int]:
    for name, label in (("attacked_class", attacked), ("attacking_class", attacking)):
        if label is not None and label >= classes:
            raise AttackError(f"svm_poisoning: {name}: got {label}, wanted 0 to {classes - 1}")
    if classes != 2 and (attacked is None or attacking is None):
        raise AttackError(
            f"svm_poisoning: got {classes} classes, wanted 2, or both attacked_class and attacking_class by settings"
        )
    if attacked is None:
        drawn = int(torch.randint(2, (1,), generator=generator, device=generator.device))
        attacked = drawn if attacking is None else 1 - attacking
    attacking = 1 - attacked if attacking is None else attacking
    if attacked == attacking:
        raise AttackError(f"svm_poisoning: got {attacked} as attacked_class and attacking_class, wanted two classes")
    return attacked, attacking


def _of_pair(flat: FlatSamples, attacked: int, attacking: int) -> FlatSamples:
    """The samples of two classes, the attacked one as class 0 and the attacking one as class 1."""
    for name, labels in (("the training set", flat.y), ("the attacker's own samples", flat.own_y)):
        for label in (attacked, attacking):
            if not bool((labels == label).any()):
                raise AttackError(f"svm_poisoning: got no sample of class {label} in {name}, wanted at least one")
    there = (flat.y == attacked) | (flat.y == attacking)
    own = (flat.own_y == attacked) | (flat.own_y == attacking)
    return FlatSamples(
        flat.x[there],
        (flat.y[there] == attacking).long(),
        flat.own_x[own],
        (flat.own_y[own] == attacking).long(),
        2,
        flat.box,
    )
