"""Linear classifiers with a strictly convex training loss, and how what they learn depends on each sample."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.derivatives.convex_losses import LOSSES, ConvexLoss, Curvature, LossTerms
from taster.derivatives.linear_systems import exact_solve, iterative_solve
from taster.errors import ModelError
from taster.utils.setting_types import PositiveCount, PositiveFloat
from taster.utils.settings import settings_group

_GRADIENT_TOLERANCE = 1e-12
_NEWTON_STEPS = 200


@settings_group
class ConvexSettings:
    """A linear classifier that an attack trains for itself.

    Attributes:
        loss: "logistic" (softmax regression), "ridge" (least squares on one-hot labels), "squared_hinge" (support
            vector machines, one class against the rest).
        l2: λ, the weight of ½ ‖θ‖² beside the mean loss. It includes the bias, without which the bias of softmax
            regression would not be unique.
        exact_up_to: parameters up to which linear systems with the Hessian are solved exactly; more by conjugate
            gradients. "ridge" and "squared_hinge" count those of one class.
        solve_tolerance: of conjugate gradients, relative.
    """

    loss: ConvexLoss = "logistic"
    l2: PositiveFloat = 0.01
    exact_up_to: PositiveCount = 2000
    solve_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-8


@dataclass(frozen=True, eq=False)
class ConvexModel:
    """A linear classifier θ [K, d + 1], the last column its bias, and the samples that it was trained on.

    It minimizes J(θ) = 1/n Σᵢ wᵢ ℓ(θ xᵢ, yᵢ) + λ/2 ‖θ‖², the xᵢ with a 1 appended.

    Attributes:
        settings: of the loss.
        x: samples with a 1 appended, [n, d + 1].
        y: labels, int64 [n].
        weights: wᵢ / n, [n].
        theta: θ.
    """

    settings: ConvexSettings
    x: Tensor
    y: Tensor
    weights: Tensor
    theta: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """Of samples [m, d], [m, K]."""
        return with_one(x) @ self.theta.T

    def mean_loss(self, x: Tensor, y: Tensor) -> float:
        """Mean loss of samples [m, d] under labels [m], without the regularization."""
        return float(LOSSES[self.settings.loss](self.logits(x), y).value.mean())

    def mean_loss_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """∇_θ of `mean_loss`, [K, d + 1]."""
        slope = LOSSES[self.settings.loss](self.logits(x), y).slope
        return slope.T @ with_one(x) / len(x)

    def solve(self, right: Tensor, damping: float = 0.0) -> Tensor:
        """(H + damping I)⁻¹ B for B [K, d + 1], H the Hessian of J.

        Raises:
            ModelError: if conjugate gradients do not get there.
        """
        l2 = self.settings.l2 + damping
        return _solve(self.settings, self.x, self._curvature, l2, right, self.settings.solve_tolerance)

    def sample_gradients(self, rows: Tensor, along: Tensor) -> Tensor:
        """The gradient of an outer objective F(θ) in some training samples, through the training: implicit
        differentiation of ∇J = 0, ∂F/∂xᵢ = −wᵢ/n ∂/∂xᵢ ⟨H⁻¹ ∇F, ∇_θ ℓᵢ⟩.

        Args:
            rows: of the training set, int64 [k].
            along: H⁻¹ ∇F, [K, d + 1].

        Returns:
            [k, d].
        """
        return -self.weights[rows, None] * self.pull(self.x[rows, :-1], self.y[rows], along)

    def pull(self, x: Tensor, y: Tensor, along: Tensor) -> Tensor:
        """∂/∂x ⟨V, ∇_θ ℓ(θ x, y)⟩ = Vᵀ s + θᵀ C V x, for samples [k, d] and V [K, d + 1]; [k, d].

        s and C are the first and second derivatives of the loss in the logits.
        """
        extended = with_one(x)
        terms = LOSSES[self.settings.loss](extended @ self.theta.T, y)
        moved = extended @ along.T
        return terms.slope @ along[:, :-1] + terms.curvature.apply(moved) @ self.theta[:, :-1]

    def influence(self, x: Tensor, y: Tensor, along: Tensor) -> Tensor:
        """−⟨V, ∇_θ ℓ(θ x, y)⟩, [k]: how fast F rises as samples [k, d] are weighted up in the sum of the losses, times
        n, for V = H⁻¹ ∇F.

        Source: Koh and Liang 2017, Eq. 2.
        """
        extended = with_one(x)
        slope = LOSSES[self.settings.loss](extended @ self.theta.T, y).slope
        return -(slope * (extended @ along.T)).sum(1)

    def retrained(self, x: Tensor, y: Tensor) -> ConvexModel:
        """Trained on other samples [n, d] under labels [n] with the same weights, from this model's θ."""
        weights = self.weights * len(self.weights)
        return train_convex(self.settings, x, y, len(self.theta), weights=weights, start=self.theta)

    @cached_property
    def _curvature(self) -> Curvature:
        return LOSSES[self.settings.loss](self.x @ self.theta.T, self.y).curvature.weighted(self.weights)


def train_convex(
    settings: ConvexSettings,
    x: Tensor,
    y: Tensor,
    classes: int,
    *,
    weights: Tensor | None = None,
    start: Tensor | None = None,
) -> ConvexModel:
    """Trains by Newton's method with backtracking, until ‖∇J‖ ≤ 1e-12 (1 + ‖θ‖).

    Args:
        settings: of the loss.
        x: samples, float64 [n, d].
        y: labels, int64 [n].
        classes: K.
        weights: wᵢ, [n]. Default: 1 each.
        start: first θ, [K, d + 1]. Default: zero.

    Raises:
        ModelError: if that does not converge.
    """
    extended = with_one(x)
    w = (torch.ones_like(extended[:, 0]) if weights is None else weights.to(extended)) / len(x)
    theta = extended.new_zeros(classes, extended.shape[1]) if start is None else start
    value, terms, slope = _objective(settings, extended, y, w, theta)
    for _ in range(_NEWTON_STEPS):
        size = float(slope.norm())
        if size <= _GRADIENT_TOLERANCE * (1 + float(theta.norm())):
            return ConvexModel(settings, extended, y, w, theta)
        # Conjugate gradients need be no more exact than the step is worth.
        step = _solve(settings, extended, terms.curvature.weighted(w), settings.l2, slope, min(0.1, size**0.5))
        gain = float((slope * step).sum())
        length = 1.0
        while True:
            tried = theta - length * step
            new_value, new_terms, new_slope = _objective(settings, extended, y, w, tried)
            # Near the minimum rounding hides what a step gains; the gradient tells.
            lower = new_value <= value - 1e-4 * length * gain
            if lower or (gain <= 1e-12 * (1 + abs(value)) and float(new_slope.norm()) < size):
                break
            length /= 2
            if length < 1e-12:
                raise ModelError(
                    f"training a linear model: got stuck at a gradient of norm {size:.1e}, wanted under "
                    f"{_GRADIENT_TOLERANCE:.0e}: raise l2, or scale the samples to about 1"
                )
        theta, value, terms, slope = tried, new_value, new_terms, new_slope
    raise ModelError(
        f"training a linear model: got a gradient of norm {float(slope.norm()):.1e} after {_NEWTON_STEPS} Newton "
        f"steps, wanted under {_GRADIENT_TOLERANCE:.0e}: raise l2, or scale the samples to about 1"
    )


def with_one(x: Tensor) -> Tensor:
    """Samples [n, d] with a 1 appended, [n, d + 1]."""
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def _objective(
    settings: ConvexSettings, x: Tensor, y: Tensor, w: Tensor, theta: Tensor
) -> tuple[float, LossTerms, Tensor]:
    """J, the losses' terms, and ∇J."""
    terms = LOSSES[settings.loss](x @ theta.T, y)
    value = float(w @ terms.value) + settings.l2 / 2 * float(theta.square().sum())
    return value, terms, (w[:, None] * terms.slope).T @ x + settings.l2 * theta


def _solve(
    settings: ConvexSettings, x: Tensor, curvature: Curvature, l2: float, right: Tensor, tolerance: float
) -> Tensor:
    size = right.shape[1] if curvature.separate else right.numel()
    if size <= settings.exact_up_to:
        return exact_solve(x, curvature, l2, right)

    def product(along: Tensor) -> Tensor:
        return curvature.apply(x @ along.T).T @ x + l2 * along

    return iterative_solve(product, right, tolerance=tolerance, max_iterations=max(100, 10 * right.numel()))
