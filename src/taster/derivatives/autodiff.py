"""The derivatives by automatic differentiation alone: backward through backward, or forward through backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from taster.core.types import Batch, Tensors
from taster.derivatives.algebra import Normalise, aligned, inner, normalised, pull

LossAt = Callable[[Tensors, Tensor, Tensor], Tensor]
"""A loss as a function of parameters, samples x [n, ...] and labels y [n], one number."""


class Differentiator(Protocol):
    """One method to differentiate by."""

    def mixed_derivative(
        self,
        loss: LossAt,
        params: Mapping[str, Tensor],
        batch: Batch,
        towards: Mapping[str, Tensor],
        normalise: Normalise = "none",
    ) -> Tensor:
        """∇ₓ `aligned`(∇_θ L(x; θ), V) for the samples of a batch, of their shape.

        Args:
            loss: L.
            params: θ.
            batch: samples x and labels.
            towards: V, constant in x; see `taster.derivatives.algebra.combined`.
            normalise: how the inner product is taken.
        """

    def accumulation_direction(
        self, loss: LossAt, params: Mapping[str, Tensor], a: Batch, b: Batch, normalise: Normalise = "none"
    ) -> Tensors:
        """∇_θ ⟨∇_θ L_a(θ), ∇_θ L_b(θ)⟩: where parameters go to align two gradients (Pang et al. 2021, G_t in Eq. 9)."""

    def hessian_vector_product(
        self, loss: LossAt, params: Mapping[str, Tensor], batch: Batch, direction: Mapping[str, Tensor]
    ) -> Tensors:
        """∇²_θ L(θ) v, by name."""


def gradient(loss: LossAt, params: Mapping[str, Tensor], batch: Batch) -> Tensors:
    """∇_θ L(θ), by name; zero for a parameter that the loss does not use.

    Args:
        loss: L.
        params: θ; not changed, and no gradient is accumulated into it.
        batch: samples and labels.
    """
    leaves = as_leaves(params)
    return grad(loss(leaves, batch.x, batch.y), leaves)


class DoubleBackward:
    """Backward through backward."""

    def mixed_derivative(
        self,
        loss: LossAt,
        params: Mapping[str, Tensor],
        batch: Batch,
        towards: Mapping[str, Tensor],
        normalise: Normalise = "none",
    ) -> Tensor:
        """By one graph through the gradient of the parameters."""
        leaves, x = as_leaves(params), batch.x.detach().requires_grad_(True)
        own = grad(loss(leaves, x, batch.y), leaves, create_graph=True)
        (derivative,) = torch.autograd.grad(aligned(own, towards, normalise), x)
        return derivative

    def accumulation_direction(
        self, loss: LossAt, params: Mapping[str, Tensor], a: Batch, b: Batch, normalise: Normalise = "none"
    ) -> Tensors:
        """By one graph through both gradients."""
        leaves = as_leaves(params)
        own = grad(loss(leaves, a.x, a.y), leaves, create_graph=True)
        other = grad(loss(leaves, b.x, b.y), leaves, create_graph=True)
        return grad(inner(own, other, normalise), leaves)

    def hessian_vector_product(
        self, loss: LossAt, params: Mapping[str, Tensor], batch: Batch, direction: Mapping[str, Tensor]
    ) -> Tensors:
        """By one graph through the gradient."""
        leaves = as_leaves(params)
        return grad(inner(grad(loss(leaves, batch.x, batch.y), leaves, create_graph=True), direction), leaves)


class ForwardOverReverse(DoubleBackward):
    """The derivative of a gradient along a direction, by dual numbers; normalised mixed derivatives as its parent."""

    def mixed_derivative(
        self,
        loss: LossAt,
        params: Mapping[str, Tensor],
        batch: Batch,
        towards: Mapping[str, Tensor],
        normalise: Normalise = "none",
    ) -> Tensor:
        """Without a gradient of any weight, where it is not normalised."""
        if normalise != "none":
            return super().mixed_derivative(loss, params, batch, towards, normalise)

        def slope(at: Tensors) -> Tensor:  # no gradient of any weight
            found: Tensor = torch.func.grad(lambda samples: loss(at, samples, batch.y))(batch.x.detach())
            return found

        derivative: Tensor = torch.func.jvp(slope, (_detached(params),), (_detached(towards),))[1]
        return derivative

    def accumulation_direction(
        self, loss: LossAt, params: Mapping[str, Tensor], a: Batch, b: Batch, normalise: Normalise = "none"
    ) -> Tensors:
        """The sum of two Hessian-vector products."""
        own, other = gradient(loss, params, a), gradient(loss, params, b)
        first = self.hessian_vector_product(loss, params, a, steer(own, other, normalise))
        second = self.hessian_vector_product(loss, params, b, steer(other, own, normalise))
        return {name: first[name] + second[name] for name in first}

    def hessian_vector_product(
        self, loss: LossAt, params: Mapping[str, Tensor], batch: Batch, direction: Mapping[str, Tensor]
    ) -> Tensors:
        """The gradient of a dual number."""
        slope = torch.func.grad(lambda at: loss(at, batch.x, batch.y))
        product: Tensors = torch.func.jvp(slope, (_detached(params),), (_detached(direction),))[1]
        return product


def steer(own: Mapping[str, Tensor], other: Mapping[str, Tensor], normalise: Normalise) -> Tensors:
    """The gradient of `inner`(own, other) in its first argument."""
    return pull(own, normalised(other, normalise), normalise)


def accumulation_derivative(
    loss: LossAt,
    params: Mapping[str, Tensor],
    a: Batch,
    b: Batch,
    direction: Mapping[str, Tensor],
    normalise: Normalise = "none",
    outer: Normalise = "none",
) -> Tensor:
    """∇ₓ ⟨v, ∇_θ ⟨∇_θ L_a(θ), ∇_θ L_b(θ)⟩⟩ for the samples x of b: how they steer the direction G_t towards v.

    `normalise` says how the inner product of the two gradients is taken, `outer` the one with v.
    This is ∇ of H_t with respect to the trigger batch in Pang et al. 2021, Algorithm 1: a third derivative of L.
    """
    leaves = as_leaves(params)
    x = b.x.detach().requires_grad_(True)
    own = grad(loss(leaves, a.x, a.y), leaves, create_graph=True)
    other = grad(loss(leaves, x, b.y), leaves, create_graph=True)
    towards = grad(inner(own, other, normalise), leaves, create_graph=True)
    (derivative,) = torch.autograd.grad(inner(towards, direction, outer), x)
    return derivative


def as_leaves(params: Mapping[str, Tensor]) -> Tensors:
    """The same values as the start of a new graph."""
    return {name: value.detach().requires_grad_(True) for name, value in params.items()}


def grad(value: Tensor, leaves: Tensors, *, create_graph: bool = False) -> Tensors:
    """The gradient of a number by leaf; zero where it does not depend on one."""
    if not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(value, list(leaves.values()), create_graph=create_graph, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def _detached(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: value.detach() for name, value in tensors.items()}
