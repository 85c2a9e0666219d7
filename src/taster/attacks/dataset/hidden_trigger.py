"""A backdoor whose trigger no training sample shows: poison that looks like one class and has features of others."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from taster.attacks.backdoor import Backdoor, draw_from
from taster.attacks.dataset_attack import DatasetAttack, DatasetBudget, DatasetKnowledge, DatasetPoisonSettings, Poison
from taster.attacks.surrogate import net_fits
from taster.attacks.triggers import named_trigger
from taster.core.batch import Batch
from taster.core.threat import threat
from taster.core.view import View
from taster.errors import AttackError
from taster.perturbations.pgd import LpBall, pgd
from taster.utils.setting_types import PositiveCount
from taster.utils.settings import validate_settings

_NAME = "hidden_trigger_backdoor"

_AT_ONCE = 100
"""Samples that are crafted, and paired, together."""


@threat(
    "targeted",
    "integrity",
    "grey box",
    "universal",
    "feature space",
    "before training",
    note="What is used is one trigger for all; the perturbation that hides it is each sample's own.",
)
@validate_settings
def hidden_trigger_backdoor(
    *,
    poison: DatasetPoisonSettings = DatasetPoisonSettings(poison_fraction=0.05),
    target_class: Annotated[int, Field(ge=0)] = 0,
    trigger: str = "patch",
    epsilon: Annotated[float, Field(gt=0, le=1)] = 16 / 255,
    rounds: PositiveCount = 10,
    steps: PositiveCount = 10,
    layer: str | None = None,
    perturbation: Literal["features", "noise"] = "features",
) -> DatasetAttack:
    """Samples of the target class, under their own label, whose features are those of triggered samples of others.

        min over ‖z − t‖∞ ≤ ε of ‖φ(z) − φ(trigger(s))‖²

    t is a sample of the target class in the training set, s one of the attacker's own of another class. In each round s
    are drawn anew and paired with the z, one to one, so that the sum of their distances is smallest; then PGD takes
    some steps. φ are the features of a net that the attacker trains on the clean set as the victim does
    (`DatasetKnowledge.fit`); where the victim trains the last layer alone, they are those of the victim.

    Args:
        poison: how many samples are changed; as many at most as the target class has.
        target_class: the class of triggered samples.
        trigger: "patch", "blended", or a function of one's own, see `taster.attacks.triggers.named_trigger`.
        epsilon: ε, in the units of the data.
        rounds: how often sources are drawn and paired.
        steps: of PGD in a round, the first of them ε/4 long in the first round, falling linearly to ε/40 in the last.
        layer: whose output the features are; None takes the input of the last linear layer.
        perturbation: "features" is the attack; "noise" its control, ±ε on each value of the same samples.

    Raises (when it poisons):
        AttackError: for the training of an estimator, a target class that there is not, and own samples of the target
            class alone.
        ModelError: for a layer that the net does not have.

    Source: Saha, Subramanya and Pirsiavash 2020 (Hidden Trigger Backdoor Attacks), Algorithm 1, with sources of all
        other classes, the trigger in one place, and pairs by the smallest sum in place of a greedy choice.
    """
    planted = Backdoor(named_trigger(trigger), target_class)
    budget = DatasetBudget(poison.poison_fraction, content=LpBall("linf", epsilon))

    def attack(clean: Batch, knowledge: DatasetKnowledge) -> Poison:
        fit = net_fits(knowledge, _NAME)[0]
        if target_class >= knowledge.classes:
            raise AttackError(f"target_class: got {target_class}, wanted 0 to {knowledge.classes - 1}")
        sources = knowledge.own.x[knowledge.own.y != target_class].to(clean.x)
        if not len(sources):
            raise AttackError(
                f"{_NAME}: got own samples of the target class {target_class} alone, wanted some of others "
                "(split.validation)"
            )
        chosen = draw_from(clean.y == target_class, budget.max_poisoned(len(clean)), knowledge.generator)
        x, ball = clean.x.clone(), LpBall("linf", epsilon, knowledge.low, knowledge.high)
        if perturbation == "noise":
            x[chosen] = ball.random_boundary(clean.x[chosen], knowledge.generator)
            return Poison(Batch(x, clean.y))
        view = fit(clean)
        for places in torch.split(chosen, _AT_ONCE):
            moved = clean.x[places]
            for done in range(rounds):
                drawn = _draw(sources, len(places), knowledge.generator)
                marked = planted.trigger(drawn).clamp(knowledge.low, knowledge.high)
                wanted = _features(view, marked, layer)
                wanted = wanted[pair(_features(view, moved, layer), wanted)]
                size = epsilon / 4 * (1 - 0.9 * done / max(1, rounds - 1))
                moved = pgd(
                    lambda at, wanted=wanted: -_distance_gradient(view, at, wanted, layer),  # type: ignore[misc]
                    clean.x[places],
                    ball,
                    steps=steps,
                    step_size=size,
                    init=moved,
                )
            x[places] = moved
        return Poison(Batch(x, clean.y))

    return DatasetAttack(budget, attack, backdoor=planted)


def pair(rows: Tensor, others: Tensor) -> Tensor:
    """For each row the place of its partner among the others, one to one, so that the sum of squared distances is the
    smallest, int64 [n].

    Args:
        rows, others: [n, d].
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and only needed here

    distances = torch.cdist(rows.double(), others.double()).square()
    _, partner = linear_sum_assignment(distances.cpu().numpy())
    return torch.from_numpy(partner).to(rows.device)


def _draw(sources: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sources [count, ...], each as often as any other but for one."""
    order = [
        torch.randperm(len(sources), generator=generator, device=generator.device)
        for _ in range(-(-count // len(sources)))
    ]
    return sources[torch.cat(order)[:count].to(sources.device)]


def _features(view: View, x: Tensor, layer: str | None) -> Tensor:
    with torch.no_grad():
        return view.features(x, layer)[0]


def _distance_gradient(view: View, x: Tensor, wanted: Tensor, layer: str | None) -> Tensor:
    """∇ₓ ‖φ(x) − φ′‖², sample by sample, [n, ...]."""
    at = x.detach().requires_grad_()
    distance = (view.features(at, layer)[0] - wanted).square().sum()
    return torch.autograd.grad(distance, at)[0]
