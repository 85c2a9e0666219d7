"""Derivatives by differences of gradients along a direction, with the activation pattern held fixed.

    ∇ₓ ⟨∇_θ L(x; θ), u⟩ ≈ (∇ₓ L(x; θ + s u) − ∇ₓ L(x; θ)) / s

takes two forward passes and two backward passes to the samples only: no second derivative, no gradient of the
parameters, no graph of a graph. A Hessian-vector product is the same with ∇_θ instead of ∇ₓ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.host import to_host
from taster.core.param_vectors import global_norm_tensor
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

    All of that stays on the device. Whether a step has missed is read at once, or, inside of `deferred`, later and for
    all of them together.

    Args:
        change: the relative change.

    Attributes:
        length: of the next step, relative to the norm of the parameters, []. None before the first.
    """

    def __init__(self, change: float) -> None:
        self.change = change
        self.length: Tensor | None = None
        self._unread: list[Tensor] | None = None

    @contextmanager
    def deferred(self) -> Iterator[list[Tensor]]:
        """Inside, steps are not repeated and nothing waits, but at the first of all.

        Yields:
            whether each was good, [].
        """
        before = self._unread
        good: list[Tensor] = []
        self._unread = good
        try:
            yield good
        finally:
            self._unread = before

    def along(
        self,
        direction: Mapping[str, Tensor],
        params: Mapping[str, Tensor],
        here: Tensors,
        there: Callable[[Tensors], Tensors],
    ) -> Tensors:
        """The derivative of a gradient along a direction; zero where there is none, or that of a vanishing gradient.

        Args:
            direction: u, by parameter.
            params: θ.
            here: the gradient at θ, any tensors by name.
            there: computes the gradient at other parameters.
        """
        whole, reach, scale = (global_norm_tensor(tensors).double() for tensors in (params, direction, here))
        usable = (reach > 0) & reach.isfinite()
        per_length = torch.where(whole > 0, whole, 1.0) / torch.where(usable, reach, 1.0)
        first, attempts = self.length is None, 0
        length = torch.full_like(whole, _INITIAL_LENGTH) if self.length is None else self.length.to(whole)
        while True:
            attempts += 1
            step = length * per_length
            moved = _difference(there(shift(params, direction, step)), here)
            change = torch.where(scale > 0, global_norm_tensor(moved).double() / scale, self.change)
            change = torch.where(change.isfinite(), change, 10 * self.change)
            good = usable & (change >= self.change / _TOLERANCE) & (change <= self.change * _TOLERANCE)
            length = length * (self.change / change.clamp_min(1e-12)).clamp(0.1, 10.0)
            if self._unread is not None and not first:
                self._unread.append(good)
                last = True
            else:
                possible, last = to_host(usable, good)
                if not possible:
                    return {name: torch.zeros_like(value) for name, value in here.items()}
            if last or attempts == _MAX_ATTEMPTS:
                self.length = length
                values = list(moved.values())
                torch._foreach_div_(values, step.to(values[0].dtype))
                return moved
            del moved  # possibly as large as the parameters, and the next attempt needs the memory


def _difference(there: Tensors, here: Tensors) -> Tensors:
    moved = torch._foreach_sub([there[name] for name in here], list(here.values()))
    return dict(zip(here, moved, strict=True))


def shift(params: Mapping[str, Tensor], direction: Mapping[str, Tensor], step: Tensor) -> Tensors:
    """θ + s u, with s on the device."""
    moved = torch._foreach_mul(list(direction.values()), step.to(next(iter(direction.values())).dtype))
    torch._foreach_add_(moved, [params[name] for name in direction])
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
        self._steps = [self._mixed, self._product, self._own, self._other]

    @contextmanager
    def deferred(self) -> Iterator[list[list[Tensor]]]:
        """Inside, nothing waits; yields whether each difference was good, see `FiniteDifferenceStep.deferred`."""
        with ExitStack() as stack:
            yield [stack.enter_context(step.deferred()) for step in self._steps]

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
