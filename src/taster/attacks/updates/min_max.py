"""Min-max and min-sum: the largest perturbation of the mean that is within the spread of the honest updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from taster.attacks.update_attack import RoundKnowledge, UpdateAttack
from taster.core.threat import threat
from taster.core.view import View
from taster.stats.pairwise import gram_matrix, squared_distances
from taster.utils.settings import validate_settings

Perturbation = Literal["unit", "deviation", "sign"]


@threat("indiscriminate", "availability", "white box", "none", "none", "round")
@validate_settings
def min_max(*, perturbation: Perturbation = "deviation") -> UpdateAttack:
    """The others' mean plus γ p, γ the largest with which no distance to them exceeds the largest among them.

    Args:
        perturbation: p: "unit", the negated mean at unit norm; "deviation", the negated standard deviation of each
            coordinate; "sign", the negated signs of the mean.

    Source: Shejwalkar and Houmansadr 2021, Section IV-B ("Min-Max"); γ in closed form instead of by search.
    """
    return _update_attack(perturbation, _largest_of_each)


@threat("indiscriminate", "availability", "white box", "none", "none", "round")
@validate_settings
def min_sum(*, perturbation: Perturbation = "deviation") -> UpdateAttack:
    """The others' mean plus γ p, γ the largest with which the sum of squared distances to them exceeds none of theirs.

    Args:
        perturbation: see `min_max`.

    Source: Shejwalkar and Houmansadr 2021, Section IV-B ("Min-Sum"); γ in closed form instead of by search.
    """
    return _update_attack(perturbation, _largest_in_sum)


def _update_attack(perturbation: Perturbation, largest: Callable[[Tensor, Tensor, Tensor], float]) -> UpdateAttack:
    def attack(knowledge: RoundKnowledge, view: View) -> Tensor:
        others = knowledge.others
        mean = others.mean(0)
        p = _direction(others, mean, perturbation)
        gamma = largest(others, mean, p) if float(p.abs().max()) > 0 else 0.0
        row: Tensor = mean + gamma * p
        return row.expand(int(knowledge.malicious.sum()), -1)

    return UpdateAttack.always(attack)


def _direction(others: Tensor, mean: Tensor, perturbation: Perturbation) -> Tensor:
    if perturbation == "unit":
        p: Tensor = -mean / torch.linalg.vector_norm(mean).clamp_min(torch.finfo(mean.dtype).tiny)
        return p
    if perturbation == "sign":
        return -mean.sign()
    return -others.std(0) if len(others) > 1 else torch.zeros_like(mean)


def _largest_of_each(others: Tensor, mean: Tensor, p: Tensor) -> float:
    """The largest γ with ‖mean + γ p − vᵢ‖ ≤ max ‖vᵢ − vⱼ‖ for all i: the least root of a quadratic for each."""
    bound = squared_distances(gram_matrix(others)).max()
    squares, along = _apart(others, mean, p)
    return float(_root(p.double().square().sum(), along, squares - bound).min())


def _largest_in_sum(others: Tensor, mean: Tensor, p: Tensor) -> float:
    """The largest γ with Σᵢ ‖mean + γ p − vᵢ‖² ≤ max over j of Σᵢ ‖vⱼ − vᵢ‖²."""
    bound = squared_distances(gram_matrix(others)).sum(1).max()
    squares, along = _apart(others, mean, p)
    return float(_root(len(others) * p.double().square().sum(), along.sum(), squares.sum() - bound))


def _apart(others: Tensor, mean: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """‖mean − vᵢ‖² and ⟨mean − vᵢ, p⟩, [n] each."""
    away = (mean - others).double()
    return away.square().sum(1), away @ p.double()


def _root(a: Tensor, half_b: Tensor, c: Tensor) -> Tensor:
    """The larger root of a γ² + 2 (b/2) γ + c, where c ≤ 0; never under 0."""
    return ((-half_b + (half_b.square() - a * c).clamp_min(0).sqrt()) / a).clamp_min(0)
