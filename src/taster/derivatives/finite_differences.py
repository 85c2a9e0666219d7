"""The derivatives as differences of gradients along a direction, every kink held to one side.

    ∇ₓ ⟨∇_θ L(x; θ), u⟩ ≈ (∇ₓ L(x; θ + s u) − ∇ₓ L(x; θ)) / s

costs two forward passes and two backward passes to the samples only: no second derivative, no gradient of any weight,
no graph of a graph. A Hessian-vector product is the same with ∇_θ in place of ∇ₓ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from taster.core.types import Batch, Tensors
from taster.derivatives.activation_pattern import ActivationPattern
from taster.derivatives.algebra import Normalize, global_norm, normalized_inner_grad
from taster.derivatives.autodiff import LossFn, as_leaves, grad, inner_grad

_ATTEMPTS = 6
_FIRST = 1e-4
_SAMPLES = ""  # a name that no parameter has
_LATITUDE = 2.5  # how far off the change may be, as a factor: within it the derivative is as good


class FiniteDifferenceStep:
    """How far to step along a direction, kept such that the gradient changes by a set share of its norm.

    Too short a step drowns in rounding, too long a one in curvature. How far is right depends on model and direction,
    how much change is right only on the number format (`benchmarks/changes.py` measures it). So the length follows
    the change that the last step made; a step that missed it by far is taken again.

    Attributes:
        change: the share.
        length: of the last step, over the norm of the parameters; None before the first.
    """

    def __init__(self, change: float) -> None:
        self.change = change
        self.length: float | None = None

    def along(
        self,
        direction: Mapping[str, Tensor],
        params: Mapping[str, Tensor],
        here: Sequence[Tensor],
        there: Callable[[Tensors], Sequence[Tensor]],
    ) -> list[Tensor]:
        """The derivative of a gradient along a direction.

        Args:
            direction: u, by parameter.
            params: θ.
            here: the gradient at θ, any tensors.
            there: the same at other parameters.
        """
        whole, reach = global_norm(list(params.values())), global_norm(list(direction.values()))
        scale = global_norm(here)
        if reach == 0 or math.isinf(reach):  # nowhere to go; or the direction of a gradient that vanishes
            return [torch.zeros_like(t) for t in here]
        attempts = 0
        while True:
            attempts += 1
            length = _FIRST if self.length is None else self.length
            step = length * (whole or 1.0) / reach
            moved = _difference(there(shift(params, direction, step)), here)
            change = global_norm(moved) / scale if scale else self.change
            if not math.isfinite(change):
                change = 10 * self.change
            self.length = length * min(max(self.change / max(change, 1e-12), 0.1), 10.0)
            if self.change / _LATITUDE <= change <= self.change * _LATITUDE or attempts == _ATTEMPTS:
                torch._foreach_div_(moved, step)
                return moved
            del moved  # as large as the parameters, perhaps, and the next attempt needs the room


def _difference(there: Sequence[Tensor], here: Sequence[Tensor]) -> list[Tensor]:
    return list(torch._foreach_sub(list(there), list(here)))


def shift(params: Mapping[str, Tensor], direction: Mapping[str, Tensor], step: float) -> Tensors:
    """θ + s u."""
    moved = torch._foreach_add([params[name] for name in direction], list(direction.values()), alpha=step)
    return {**params, **dict(zip(direction, moved, strict=True))}


class FrozenActivationDifferences:
    """The derivatives by differences, with a stride for each kind of direction.

    Args:
        change: share by which gradients are to change; see `Stride`.
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
        """Two passes forward and two backward to the samples; normalized, one of these to the parameters as well."""
        branches = ActivationPattern()
        # Normalised, the gradient of the parameters is needed too; it comes from the same backward pass.
        leaves = {} if normalize == "none" else as_leaves(params)
        x = batch.x.detach().requires_grad_(True)
        with branches.recording():
            value = loss({**params, **leaves}, x, batch.y)
        slopes = grad(value, {_SAMPLES: x, **leaves})
        here = slopes.pop(_SAMPLES)
        direction = normalized_inner_grad(slopes, towards, normalize) if leaves else towards
        del value, slopes

        def there(moved: Tensors) -> Sequence[Tensor]:
            again = batch.x.detach().requires_grad_(True)
            with branches.replaying():
                value = loss(moved, again, batch.y)
            return list(grad(value, {_SAMPLES: again}).values())

        return self._mixed.along(direction, params, [here], there)[0]

    def accumulation_direction(
        self, loss: LossFn, params: Mapping[str, Tensor], a: Batch, b: Batch, normalize: Normalize = "none"
    ) -> Tensors:
        """Two Hessian-vector products, which share the gradients they start from."""
        # Each of these takes as much memory as the parameters do: none is kept longer than needed.
        own, own_branches = _gradient(loss, params, a)
        own_branches.compact()
        other, other_branches = _gradient(loss, params, b)
        other_branches.compact()
        total = _along(loss, params, a, inner_grad(own, other, normalize), own, own_branches, self._own)
        direction = inner_grad(other, own, normalize)
        del own, own_branches
        second = _along(loss, params, b, direction, other, other_branches, self._other)
        torch._foreach_add_(list(total.values()), list(second.values()))
        return total

    def hessian_vector_product(
        self, loss: LossFn, params: Mapping[str, Tensor], batch: Batch, direction: Mapping[str, Tensor]
    ) -> Tensors:
        """Two gradients."""
        here, branches = _gradient(loss, params, batch)
        return _along(loss, params, batch, direction, here, branches, self._product)


def _gradient(loss: LossFn, params: Mapping[str, Tensor], batch: Batch) -> tuple[Tensors, ActivationPattern]:
    branches, leaves = ActivationPattern(), as_leaves(params)
    with branches.recording():
        value = loss(leaves, batch.x, batch.y)
    return grad(value, leaves), branches


def _along(
    loss: LossFn,
    params: Mapping[str, Tensor],
    batch: Batch,
    direction: Mapping[str, Tensor],
    here: Tensors,
    branches: ActivationPattern,
    stride: FiniteDifferenceStep,
) -> Tensors:
    def there(moved: Tensors) -> Sequence[Tensor]:
        leaves = as_leaves(moved)
        with branches.replaying():
            value = loss(leaves, batch.x, batch.y)
        return list(grad(value, leaves).values())

    return dict(zip(here, stride.along(direction, params, list(here.values()), there), strict=True))
