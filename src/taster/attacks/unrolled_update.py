"""One update on poison and the loss of normal samples after it, which the attacks of Yang et al. 2017 maximize.

    θ' = θ − η ∇_θ L(S_p; θ)          the update on the poison S_p (Eq. 5)
    F(S_p) = L(S_n; θ')               the loss of a group of normal samples after it (Eq. 6)

`loss_and_gradient` gives F and its gradient in the poison's samples, computed in one of three ways.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.types import BatchNormMode, Tensors
from taster.core.view import View
from taster.derivatives import Derivatives, DiffMethod, LossFn
from taster.derivatives.autodiff import gradient

UpdateGradient = Literal["finite_differences", "unrolled", "first_order"]

LossAndGradientFn = Callable[[Batch], tuple[float, Callable[[], Tensor]]]
"""Of a poisoned batch: F, and a function that computes ∇F, of the shape of the batch's samples."""

UNROLLED_METHOD = DiffMethod("double_backward")
"""Differentiation method for `unrolled_gradient`."""


@dataclass(frozen=True)
class OneStepUpdate:
    """The update that a learner with plain SGD would make on poison, computed on a view of it.

    Attributes:
        view: the learner before the update.
        normal: S_n, the attacker's normal samples.
        learning_rate: η, of the learner.
        batch_norm: batch-norm statistics used: the recorded ones ("eval") or those of the batch ("train").
    """

    view: View
    normal: Batch
    learning_rate: float
    batch_norm: BatchNormMode = "eval"

    @property
    def loss(self) -> LossFn:
        """L as a function of parameters, samples and labels."""
        return lambda params, x, y: self.view.loss(x, y, params=params, batch_norm=self.batch_norm)

    def update(self, poison: Batch) -> Tensors:
        """θ', without a graph."""
        params = self.view.trainable
        slopes = gradient(self.loss, params, poison)
        return {name: value - self.learning_rate * slopes[name] for name, value in params.items()}

    def loss_after(self, poison: Batch) -> float:
        """F."""
        after = self.update(poison)
        with torch.no_grad():
            return float(self.loss(after, self.normal.x, self.normal.y))


def loss_and_gradient(
    method: UpdateGradient, update: OneStepUpdate, derivatives: Derivatives, mask: Tensor, fd_step: float
) -> LossAndGradientFn:
    """F and ∇F.

    Args:
        method: how ∇F is computed.
        update: of which F is the loss.
        derivatives: for "unrolled" (by `UNROLLED_METHOD`) and "first_order".
        mask: samples that may move, [n]; "finite_differences" computes no gradient of the others.
        fd_step: Δx of "finite_differences", in the units of the data.
    """
    if method == "finite_differences":
        return finite_difference_gradient(update, mask, fd_step)
    return unrolled_gradient(update, derivatives) if method == "unrolled" else first_order_gradient(update, derivatives)


def finite_difference_gradient(update: OneStepUpdate, mask: Tensor, fd_step: float) -> LossAndGradientFn:
    """(F(x + Δx e_k) − F(x)) / Δx for each element k: one update and one pass over the group per element.

    Source: Yang et al. 2017, Algorithm 1, step 4.
    """

    def both(poison: Batch) -> tuple[float, Callable[[], Tensor]]:
        here = update.loss_after(poison)

        def found() -> Tensor:
            slopes = torch.zeros_like(poison.x).flatten(1)
            for i in mask.nonzero().flatten().tolist():
                for k in range(slopes.shape[1]):
                    moved = poison.x.clone()
                    moved[i].view(-1)[k] += fd_step
                    slopes[i, k] = (update.loss_after(Batch(moved, poison.y)) - here) / fd_step
            return slopes.reshape(poison.x.shape)

        return here, found

    return both


def unrolled_gradient(update: OneStepUpdate, derivatives: Derivatives) -> LossAndGradientFn:
    """Through the update: with g = ∇_θ' L(S_n; θ'), ∇F = −η ∇ₓ ⟨∇_θ L(S_p; θ), g⟩.

    Source: the chain rule of Yang et al. 2017, Eqs. 7 to 9, whose second derivative the paper avoids.
    """

    def both(poison: Batch) -> tuple[float, Callable[[], Tensor]]:
        loss, normal = update.loss, update.normal
        leaves = {name: value.requires_grad_(True) for name, value in update.update(poison).items()}
        here = loss(leaves, normal.x, normal.y)

        def found() -> Tensor:
            blame = torch.autograd.grad(here, list(leaves.values()), materialize_grads=True)
            terms = [(-update.learning_rate, dict(zip(leaves, blame, strict=True)))]
            return derivatives.mixed(loss, update.view.trainable, terms)(poison.x, poison.y)

        return float(here.detach()), found

    return both


def first_order_gradient(update: OneStepUpdate, derivatives: Derivatives) -> LossAndGradientFn:
    """As `unrolled_gradient`, with g taken at θ: once for all iterations, each of which is one mixed derivative.

    Source: F to first order in η; Pang et al. 2021, Eq. 6, descend the same inner product.
    """
    loss, params, normal = update.loss, update.view.trainable, update.normal
    mixed = derivatives.mixed(loss, params, [(-update.learning_rate, gradient(loss, params, normal))])
    return lambda poison: (update.loss_after(poison), lambda: mixed(poison.x, poison.y))
