"""Derivatives by automatic differentiation: backward through backward, or forward through backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.core.types import Tensors
from taster.derivatives.algebra import Normalize, inner, normalized, normalized_inner, normalized_inner_grad

LossFn = Callable[[Tensors, Tensor, Tensor], Tensor]
"""A loss, a scalar, as a function of parameters, samples x [n, ...] and labels y [n]."""


class Differentiator(Protocol):
    """Computes second derivatives by one algorithm."""

    def mixed_derivative(
        self,
        loss: LossFn,
        params: Mapping[str, Tensor],
        batch: Batch,
        towards: Mapping[str, Tensor],
        normalize: Normalize = "none",
    ) -> Tensor:
        """∇ₓ `normalized_inner`(∇_θ L(x; θ), V) for the samples of a batch, of their shape.

        Args:
            loss: L.
            params: θ.
            batch: samples x and labels.
            towards: V, constant in x; see `taster.derivatives.algebra.weighted_sum`.
            normalize: of the inner product.
        """

    def accumulation_direction(
        self, loss: LossFn, params: Mapping[str, Tensor], a: Batch, b: Batch, normalize: Normalize = "none"
    ) -> Tensors:
        """∇_θ ⟨∇_θ L_a(θ), ∇_θ L_b(θ)⟩, which aligns two gradients (Pang et al. 2021, G_t in Eq. 9)."""

    def hessian_vector_product(
        self, loss: LossFn, params: Mapping[str, Tensor], batch: Batch, direction: Mapping[str, Tensor]
    ) -> Tensors:
        """∇²_θ L(θ) v, by name."""


def gradient(loss: LossFn, params: Mapping[str, Tensor], batch: Batch) -> Tensors:
    """∇_θ L(θ), by name; zero for parameters that the loss does not depend on.

    Args:
        loss: L.
        params: θ. They are not changed, and no gradient is accumulated into them.
        batch: samples and labels.
    """
    leaves = as_leaves(params)
    return grad(loss(leaves, batch.x, batch.y), leaves)


class DoubleBackward:
    """Backward through backward."""

    def mixed_derivative(
        self,
        loss: LossFn,
        params: Mapping[str, Tensor],
        batch: Batch,
        towards: Mapping[str, Tensor],
        normalize: Normalize = "none",
    ) -> Tensor:
        """Backpropagates through the gradient of the parameters."""
        leaves = as_leaves(params)
        x: Tensor = batch.x.detach().requires_grad_(True)
        own = grad(loss(leaves, x, batch.y), leaves, create_graph=True)
        (derivative,) = torch.autograd.grad(normalized_inner(own, towards, normalize), x)
        return derivative

    def accumulation_direction(
        self, loss: LossFn, params: Mapping[str, Tensor], a: Batch, b: Batch, normalize: Normalize = "none"
    ) -> Tensors:
        """Backpropagates through both gradients."""
        leaves = as_leaves(params)
        own = grad(loss(leaves, a.x, a.y), leaves, create_graph=True)
        other = grad(loss(leaves, b.x, b.y), leaves, create_graph=True)
        return grad(inner(own, other, normalize), leaves)

    def hessian_vector_product(
        self, loss: LossFn, params: Mapping[str, Tensor], batch: Batch, direction: Mapping[str, Tensor]
    ) -> Tensors:
        """Backpropagates through the gradient."""
        leaves = as_leaves(params)
        return grad(inner(grad(loss(leaves, batch.x, batch.y), leaves, create_graph=True), direction), leaves)


class ForwardOverReverse(DoubleBackward):
    """Derivatives of a gradient along a direction by forward mode; normalized mixed ones by double backward."""

    def mixed_derivative(
        self,
        loss: LossFn,
        params: Mapping[str, Tensor],
        batch: Batch,
        towards: Mapping[str, Tensor],
        normalize: Normalize = "none",
    ) -> Tensor:
        """Computes no gradient of the parameters unless the inner product is normalized."""
        if normalize != "none":
            return super().mixed_derivative(loss, params, batch, towards, normalize)

        def slope(at: Tensors) -> Tensor:  # no gradient of any weight
            found: Tensor = torch.func.grad(lambda samples: loss(at, samples, batch.y))(batch.x.detach())
            return found

        derivative: Tensor = torch.func.jvp(slope, (_detached(params),), (_detached(towards),))[1]
        return derivative

    def accumulation_direction(
        self, loss: LossFn, params: Mapping[str, Tensor], a: Batch, b: Batch, normalize: Normalize = "none"
    ) -> Tensors:
        """Adds two Hessian-vector products."""
        own, other = gradient(loss, params, a), gradient(loss, params, b)
        first = self.hessian_vector_product(loss, params, a, inner_grad(own, other, normalize))
        second = self.hessian_vector_product(loss, params, b, inner_grad(other, own, normalize))
        return {name: first[name] + second[name] for name in first}

    def hessian_vector_product(
        self, loss: LossFn, params: Mapping[str, Tensor], batch: Batch, direction: Mapping[str, Tensor]
    ) -> Tensors:
        """Differentiates the gradient by forward mode."""
        slope = torch.func.grad(lambda at: loss(at, batch.x, batch.y))
        product: Tensors = torch.func.jvp(slope, (_detached(params),), (_detached(direction),))[1]
        return product


def inner_grad(own: Mapping[str, Tensor], other: Mapping[str, Tensor], normalize: Normalize) -> Tensors:
    """The gradient of `inner`(own, other) in its first argument."""
    return normalized_inner_grad(own, normalized(other, normalize), normalize)


def accumulation_derivative(
    loss: LossFn,
    params: Mapping[str, Tensor],
    a: Batch,
    b: Batch,
    direction: Mapping[str, Tensor],
    normalize: Normalize = "none",
    outer: Normalize = "none",
) -> Tensor:
    """∇ₓ ⟨v, ∇_θ ⟨∇_θ L_a(θ), ∇_θ L_b(θ)⟩⟩ for the samples x of b, a third derivative of L.

    `normalize` is the normalization of the inner product of the two gradients, `outer` that of the one with v. This is
    ∇ of H_t with respect to the trigger batch in Pang et al. 2021, Algorithm 1.
    """
    leaves = as_leaves(params)
    x: Tensor = b.x.detach().requires_grad_(True)
    own = grad(loss(leaves, a.x, a.y), leaves, create_graph=True)
    other = grad(loss(leaves, x, b.y), leaves, create_graph=True)
    towards = grad(inner(own, other, normalize), leaves, create_graph=True)
    (derivative,) = torch.autograd.grad(inner(towards, direction, outer), x)
    return derivative


def as_leaves(params: Mapping[str, Tensor]) -> Tensors:
    """Detached copies that require a gradient, as leaves of a new graph."""
    return {name: value.detach().requires_grad_(True) for name, value in params.items()}


def grad(value: Tensor, leaves: Tensors, *, create_graph: bool = False) -> Tensors:
    """The gradient of a scalar by leaf, dense; zero for leaves that it does not depend on."""
    if not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(value, list(leaves.values()), create_graph=create_graph, materialize_grads=True)
    dense = [gradient.to_dense() if gradient.is_sparse else gradient for gradient in found]
    return dict(zip(leaves, dense, strict=True))


def _detached(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: value.detach() for name, value in tensors.items()}
