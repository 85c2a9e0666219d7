"""Softmax regression with a penalty, and what its training samples did to the loss on others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from taster.derivatives.conjugate_gradients import conjugate_gradients

_CHUNK = 4096
_STEPS = 100


@dataclass(frozen=True, eq=False)
class SoftmaxRegression:
    """The W that minimises 1/n Σ −log softmax(W' (x_i, 1))[y_i] + λ/2 ‖W‖².

    Attributes:
        weight: W, float64 [d + 1, classes]; the last row is the bias.
        penalty: λ.
    """

    weight: Tensor
    penalty: float

    def residuals(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Probabilities less the labels, float64 [n, classes]: the gradient of the loss in the scores."""
        return self.probabilities(rows) - one_hot(labels, self.weight.shape[1])

    def probabilities(self, rows: Tensor) -> Tensor:
        """Float64 [n, classes] for rows [n, d]."""
        return _through(rows, self.weight).softmax(1)

    def mean_loss(self, rows: Tensor, labels: Tensor) -> float:
        """The cross-entropy, without the penalty."""
        return float(-_through(rows, self.weight).log_softmax(1).gather(1, labels[:, None]).mean())


def fit_softmax(rows: Tensor, labels: Tensor, classes: int, penalty: float) -> SoftmaxRegression:
    """Softmax regression by Newton steps, each by conjugate gradients.

    Args:
        rows: floating point [n, d].
        labels: int64 [n].
        classes: number of classes.
        penalty: λ, above 0; so the minimum is one point.
    """
    weight = torch.zeros(rows.shape[1] + 1, classes, dtype=torch.float64, device=rows.device)
    model = SoftmaxRegression(weight, penalty)
    for _ in range(_STEPS):
        gradient = _back(rows, model.residuals(rows, labels)) / len(rows) + penalty * model.weight
        size = float(gradient.norm())
        if size < 1e-9:
            break
        step = _solved(_curvature(model, rows), gradient, tolerance=min(0.1, size**0.5))
        model = _descended(model, rows, labels, step, float((gradient * step).sum()))
    return model


def removal_gains(model: SoftmaxRegression, rows: Tensor, labels: Tensor, held: Tensor, held_labels: Tensor) -> Gains:
    """How much lower the mean loss on held samples would be without a sample of the training set, to first order.

        gain(z) = −1/n ∇L(held)' H⁻¹ ∇ℓ(z)

    Args:
        model: fitted to the rows.
        rows, labels: its training set, [n, d] and [n].
        held, held_labels: [m, d] and [m].

    Returns:
        a function from rows [k, d] and labels [k] to gains, float64 [k]; of samples that were not trained on, what
        they would have been.

    Source: Koh and Liang 2017, Eq. 2, of which this is −1/n times.
    """
    gradient = _back(held, model.residuals(held, held_labels)) / len(held)
    direction = _solved(_curvature(model, rows), gradient, tolerance=1e-8)

    def gains(some: Tensor, some_labels: Tensor) -> Tensor:
        return -(_through(some, direction) * model.residuals(some, some_labels)).sum(1) / len(rows)

    return gains


Gains = Callable[[Tensor, Tensor], Tensor]


def _solved(multiply: Callable[[Tensor], Tensor], target: Tensor, tolerance: float) -> Tensor:
    """The solution after as many steps as the target has entries at most."""
    return conjugate_gradients(multiply, target, tolerance=tolerance, max_iterations=target.numel()).x


def _curvature(model: SoftmaxRegression, rows: Tensor) -> Callable[[Tensor], Tensor]:
    """The product of the Hessian of the penalised loss with a direction [d + 1, classes]."""
    shares = model.probabilities(rows)

    def multiply(direction: Tensor) -> Tensor:
        along = _through(rows, direction)
        turned = shares * (along - (shares * along).sum(1, keepdim=True))
        return _back(rows, turned) / len(rows) + model.penalty * direction

    return multiply


def _descended(model: SoftmaxRegression, rows: Tensor, labels: Tensor, step: Tensor, slope: float) -> SoftmaxRegression:
    """The model after a step, halved until the objective falls as much as it should (Armijo)."""

    def objective(one: SoftmaxRegression) -> float:
        return one.mean_loss(rows, labels) + one.penalty / 2 * float(one.weight.square().sum())

    start, length = objective(model), 1.0
    while length > 1e-6:
        there = SoftmaxRegression(model.weight - length * step, model.penalty)
        # A rise that is rounding alone is none.
        if objective(there) <= start - 1e-4 * length * slope + 1e-12:
            return there
        length /= 2
    return model


def _through(rows: Tensor, weight: Tensor) -> Tensor:
    """(rows, 1) W, float64 [n, classes]."""
    return torch.cat([part.double() @ weight[:-1] + weight[-1] for part in torch.split(rows, _CHUNK)])


def _back(rows: Tensor, values: Tensor) -> Tensor:
    """(rows, 1)' V, float64 [d + 1, classes], for values [n, classes]."""
    total = torch.zeros(rows.shape[1] + 1, values.shape[1], dtype=torch.float64, device=rows.device)
    for part, own in zip(torch.split(rows, _CHUNK), torch.split(values, _CHUNK), strict=True):
        total[:-1] += part.double().T @ own
        total[-1] += own.sum(0)
    return total
