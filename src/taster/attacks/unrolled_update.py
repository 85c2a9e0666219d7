"""One update on poison, and the loss of normal samples after it: what Yang et al. 2017 drive up.

    θ' = θ − η ∇_θ L(S_p; θ)          the update that the poison S_p brings about (Eq. 5)
    F(S_p) = L(S_n; θ')               the loss of a group of normal samples after it (Eq. 6)

`differences`, `exact` and `first_order` are three ways to ∇F in the poison's samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from taster.core.functional_model import BatchNormMode
from taster.core.types import Batch, Tensors
from taster.core.view import View
from taster.derivatives import Derivatives, LossAt, Way
from taster.derivatives.autodiff import gradient

GradientWay = Literal["differences", "exact", "first_order"]

Slope = Callable[[Batch], tuple[float, Callable[[], Tensor]]]
"""Of a poisoned batch: F, and a function that gives ∇F, of the shape of its samples."""


@dataclass(frozen=True)
class Injection:
    """The update that a learner with plain SGD would make on poison, tried out on a view of it.

    Attributes:
        view: the learner before it.
        normal: S_n, the attacker's normal samples.
        rate: η, the learner's.
        batch_norm: statistics used: the recorded ones, or those of the batch.
    """

    view: View
    normal: Batch
    rate: float
    batch_norm: BatchNormMode = "eval"

    @property
    def loss(self) -> LossAt:
        """L, at the moment of the view but for the parameters."""
        return lambda params, x, y: self.view.loss(x, y, params=params, batch_norm=self.batch_norm)

    def update(self, poison: Batch) -> Tensors:
        """θ', without a graph."""
        params = self.view.trainable
        slopes = gradient(self.loss, params, poison)
        return {name: value - self.rate * slopes[name] for name, value in params.items()}

    def harm(self, poison: Batch) -> float:
        """F."""
        after = self.update(poison)
        with torch.no_grad():
            return float(self.loss(after, self.normal.x, self.normal.y))


def slope_of(way: GradientWay, injection: Injection, derivatives: Derivatives, chosen: Tensor, size: float) -> Slope:
    """∇F in one of the three ways.

    Args:
        way: which.
        injection: F.
        derivatives: how "exact" and "first_order" compute; for the former in the way `UNROLLED`.
        chosen: which samples may move, [n]; of the others no difference is taken.
        size: Δx of the differences, in the units of the data.
    """
    if way == "differences":
        return differences(injection, chosen, size)
    return exact(injection, derivatives) if way == "exact" else first_order(injection, derivatives)


def differences(injection: Injection, chosen: Tensor, size: float) -> Slope:
    """(F(x + Δx e_k) − F(x)) / Δx for one element k after the other: an update and a pass of the group for each.

    Source: Yang et al. 2017, Algorithm 1, step 4.
    """

    def slope(poison: Batch) -> tuple[float, Callable[[], Tensor]]:
        here = injection.harm(poison)

        def found() -> Tensor:
            slopes = torch.zeros_like(poison.x).flatten(1)
            for i in chosen.nonzero().flatten().tolist():
                for k in range(slopes.shape[1]):
                    moved = poison.x.clone()
                    moved[i].view(-1)[k] += size
                    slopes[i, k] = (injection.harm(Batch(moved, poison.y)) - here) / size
            return slopes.reshape(poison.x.shape)

        return here, found

    return slope


UNROLLED = Way("double_backward")
"""How `exact` is to compute."""


def exact(injection: Injection, derivatives: Derivatives) -> Slope:
    """Through the update: with g = ∇_θ' L(S_n; θ'), ∇F = −η ∇ₓ ⟨∇_θ L(S_p; θ), g⟩.

    Source: the chain rule of Yang et al. 2017, Eqs. 7 to 9, whose second derivative they do without.
    """

    def slope(poison: Batch) -> tuple[float, Callable[[], Tensor]]:
        loss, normal = injection.loss, injection.normal
        leaves = {name: value.requires_grad_(True) for name, value in injection.update(poison).items()}
        here = loss(leaves, normal.x, normal.y)

        def found() -> Tensor:
            blame = torch.autograd.grad(here, list(leaves.values()), materialize_grads=True)
            terms = [(-injection.rate, dict(zip(leaves, blame, strict=True)))]
            return derivatives.mixed(loss, injection.view.trainable, terms)(poison.x, poison.y)

        return float(here.detach()), found

    return slope


def first_order(injection: Injection, derivatives: Derivatives) -> Slope:
    """As if the update were short: g taken at θ, once for all iterations, which are a mixed derivative each.

    Source: F to first order in η; Pang et al. 2021, Eq. 6, descend the same inner product.
    """
    loss, params, normal = injection.loss, injection.view.trainable, injection.normal
    mixed = derivatives.mixed(loss, params, [(-injection.rate, gradient(loss, params, normal))])
    return lambda poison: (injection.harm(poison), lambda: mixed(poison.x, poison.y))
