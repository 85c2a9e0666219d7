"""Derivatives by differences of gradients along a direction, with the activation pattern held fixed.

    ∇ₓ ⟨∇_θ L(x; θ), u⟩ ≈ (∇ₓ L(x; θ + s u) − ∇ₓ L(x; θ)) / s

takes two forward passes and two backward passes to the samples only: no second derivative, no gradient of the
parameters, no graph of a graph. A Hessian-vector product is the same with ∇_θ instead of ∇ₓ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.param_vectors import global_norm
from taster.core.types import Tensors
from taster.derivatives.activation_pattern import ActivationPattern
from taster.derivatives.algebra import Normalize, normalized_inner_grad
from taster.derivatives.autodiff import LossFn, as_leaves, grad, inner_grad

_MAX_ATTEMPTS = 6
_INITIAL_LENGTH = 1e-4
_SAMPLES = ""  # a name that no parameter has
_TOLERANCE = 2.5  # accepted ratio between the change made and the change wanted: within it the error is as small


class FiniteDifferenceStep:
    """The length of a step along a direction, adapted such that the gradient changes by a given fraction of its norm.

    Rounding dominates the error of a short step, curvature that of a long one. The right length depends on model and
    direction; the right relative change of the gradient only on the number format (`benchmarks/changes.py` measures
    it). So the length is adapted to the change that the last step made, and a step that misses it by far is repeated.

    Args:
        change: the relative change.

    Attributes:
        length: of the last step, relative to the norm of the parameters. None before the first.
    """

    def __init__(self, change: float) -> None:
        self.change = change
        self.length: float | None = None

    def along(
        self,
        direction: Mapping[str, Tensor],
        params: Mapping[str, Tensor],
        here: Tensors,
        there: Callable[[Tensors], Tensors],
    ) -> Tensors:
        """The derivative of a gradient along a direction.

        Args:
            direction: u, by parameter.
            params: θ.
            here: the gradient at θ, any tensors by name.
            there: computes the gradient at other parameters.
        """
        whole, reach, scale = global_norm(params), global_norm(direction), global_norm(here)
        if reach == 0 or math.isinf(reach):  # no direction, or that of a vanishing gradient
            return {name: torch.zeros_like(value) for name, value in here.items()}
        attempts = 0
        while True:
            attempts += 1
            length = _INITIAL_LENGTH if self.length is None else self.length
            step = length * (whole or 1.0) / reach
            moved = _difference(there(shift(params, direction, step)), here)
            change = global_norm(moved) / scale if scale else self.change
            if not math.isfinite(change):
                change = 10 * self.change
            self.length = length * min(max(self.change / max(change, 1e-12), 0.1), 10.0)
            if self.change / _TOLERANCE <= change <= self.change * _TOLERANCE or attempts == _MAX_ATTEMPTS:
                torch._foreach_div_(list(moved.values()), step)
                return moved
            del moved  # possibly as large as the parameters, and the next attempt needs the memory


def _difference(there: Tensors, here: Tensors) -> Tensors:
    moved = torch._foreach_sub([there[name] for name in here], list(here.values()))
    return dict(zip(here, moved, strict=True))


def shift(params: Mapping[str, Tensor], direction: Mapping[str, Tensor], step: float) -> Tensors:
    """θ + s u."""
    moved = torch._foreach_add([params[name] for name in direction], list(direction.values()), alpha=step)
    return {**params, **dict(zip(direction, moved, strict=True))}


class FrozenActivationDifferences:
    """Differentiates by finite differences, with a step for each kind of direction.

    Args:
        change: relative change of gradients, see `FiniteDifferenceStep`.
    """

    def __init__(self, change: float) -> None:
        self._mixed = FiniteDifferenceStep(change)
        self._product = FiniteDifferenceStep(change)
        self._own, self._other = FiniteDifferenceStep(change), FiniteDifferenceStep(change)

    def mixed_derivative(
        self,
        loss: LossFn,
        params: Mapping[str, Tensor],
        batch: Batch,
        towards: Mapping[str, Tensor],
        normalize: Normalize = "none",
    ) -> Tensor:
        """Two forward passes and two backward passes to the samples, one of them to the parameters if normalized."""
        pattern = ActivationPattern()
        # The gradient of the parameters, if it is needed, comes from the same backward pass.
        leaves = {} if normalize == "none" else as_leaves(params)
        x = batch.x.detach().requires_grad_(True)
        with pattern.recording():
            value = loss({**params, **leaves}, x, batch.y)
        gradients = grad(value, {_SAMPLES: x, **leaves})
        here = {_SAMPLES: gradients.pop(_SAMPLES)}
        direction = normalized_inner_grad(gradients, towards, normalize) if leaves else towards
        del value, gradients

        def there(moved: Tensors) -> Tensors:
            again = batch.x.detach().requires_grad_(True)
            with pattern.replaying():
                value = loss(moved, again, batch.y)
            return grad(value, {_SAMPLES: again})

        return self._mixed.along(direction, params, here, there)[_SAMPLES]

    def accumulation_direction(
        self, loss: LossFn, params: Mapping[str, Tensor], a: Batch, b: Batch, normalize: Normalize = "none"
    ) -> Tensors:
        """Two Hessian-vector products, which share the gradients that they start from."""
        # Each of these takes as much memory as the parameters: none is kept longer than needed.
        own, own_pattern = _gradient(loss, params, a)
        own_pattern.compact()
        other, other_pattern = _gradient(loss, params, b)
        other_pattern.compact()
        total = _along(loss, params, a, inner_grad(own, other, normalize), own, own_pattern, self._own)
        direction = inner_grad(other, own, normalize)
        del own, own_pattern
        second = _along(loss, params, b, direction, other, other_pattern, self._other)
        torch._foreach_add_(list(total.values()), list(second.values()))
        return total

    def hessian_vector_product(
        self, loss: LossFn, params: Mapping[str, Tensor], batch: Batch, direction: Mapping[str, Tensor]
    ) -> Tensors:
        """The difference of two gradients."""
        here, pattern = _gradient(loss, params, batch)
        return _along(loss, params, batch, direction, here, pattern, self._product)


def _gradient(loss: LossFn, params: Mapping[str, Tensor], batch: Batch) -> tuple[Tensors, ActivationPattern]:
    pattern, leaves = ActivationPattern(), as_leaves(params)
    with pattern.recording():
        value = loss(leaves, batch.x, batch.y)
    return grad(value, leaves), pattern


def _along(
    loss: LossFn,
    params: Mapping[str, Tensor],
    batch: Batch,
    direction: Mapping[str, Tensor],
    here: Tensors,
    pattern: ActivationPattern,
    step: FiniteDifferenceStep,
) -> Tensors:
    def there(moved: Tensors) -> Tensors:
        leaves = as_leaves(moved)
        with pattern.replaying():
            value = loss(leaves, batch.x, batch.y)
        return grad(value, leaves)

    return step.along(direction, params, here, there)
