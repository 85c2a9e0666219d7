"""Derivatives that poisoning needs: of inner products of parameter gradients, by samples and by parameters.

Gradients are dicts by parameter name. Throughout, an inner product of two gradients is taken in one of three ways:

    none        Σₚ ⟨aₚ, bₚ⟩
    global      Σₚ ⟨aₚ, bₚ⟩ / (‖a‖ ‖b‖)               one cosine over all parameters
    per_tensor  Σₚ ⟨aₚ, bₚ⟩ / (‖aₚ‖ ‖bₚ‖)             a cosine for each parameter tensor, added up

All derivatives are exact, by backward passes through backward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from taster.types import Tensors

Normalise = Literal["none", "global", "per_tensor"]
LossAt = Callable[[Tensors], Tensor]
"""A loss as a function of parameters, one number."""
SampleLossAt = Callable[[Tensors, Tensor], Tensor]
"""A loss as a function of parameters and samples x [n, ...], one number."""

# A tensor whose gradient is smaller than this many rounding errors of the whole gradient is rounding error itself (the
# bias of attention's keys, say) and is not blown up to unit norm; nor is anything divided by zero.
_NOISE = 100.0


def gradient(loss: LossAt, params: Mapping[str, Tensor], *, create_graph: bool = False) -> Tensors:
    """∇_θ L(θ), by name; zero for a parameter that the loss does not use.

    Args:
        loss: L.
        params: θ; not changed, and no gradient is accumulated into it.
        create_graph: whether the result can be differentiated again with respect to samples inside `loss`.
    """
    leaves = _leaves(params)
    return _grad(loss(leaves), leaves, create_graph=create_graph)


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor], normalise: Normalise = "none") -> Tensor:
    """The inner product of two gradients in one of the three ways of this module, one number."""
    if normalise == "per_tensor":
        norms_a, norms_b = _norms(a), _norms(b)
        return torch.stack([_dot(a[name], b[name]) / (norms_a[name] * norms_b[name]) for name in a]).sum()
    product = torch.stack([_dot(a[name], b[name]) for name in a]).sum()
    if normalise == "global":
        return product / (_norm(a) * _norm(b))
    return product


def normalised(a: Mapping[str, Tensor], normalise: Normalise) -> Tensors:
    """A gradient brought to unit norm: as a whole, or each tensor by itself; "none" returns it as it is."""
    if normalise == "per_tensor":
        norms = _norms(a)
        return {name: value / norms[name] for name, value in a.items()}
    if normalise == "global":
        norm = _norm(a)
        return {name: value / norm for name, value in a.items()}
    return dict(a)


def mixed_derivative(
    loss: SampleLossAt,
    params: Mapping[str, Tensor],
    x: Tensor,
    terms: Sequence[tuple[float, Mapping[str, Tensor]]],
    normalise: Normalise = "none",
) -> Tensor:
    """∇ₓ Σᵢ wᵢ ⟨∇_θ L(x; θ), vᵢ⟩, of the shape of x.

    Args:
        loss: L(θ, x).
        params: θ.
        x: samples, [n, ...].
        terms: the (wᵢ, vᵢ), constant in x. Without normalisation, add them up beforehand.
        normalise: how each inner product is taken.
    """
    leaves = _leaves(params)
    x = x.detach().requires_grad_(True)
    own = _grad(loss(leaves, x), leaves, create_graph=True)
    value = torch.stack([weight * inner(own, direction, normalise) for weight, direction in terms]).sum()
    (derivative,) = torch.autograd.grad(value, x)
    return derivative


def accumulation_direction(
    loss_a: LossAt, loss_b: LossAt, params: Mapping[str, Tensor], normalise: Normalise = "none"
) -> Tensors:
    """∇_θ ⟨∇_θ L_a(θ), ∇_θ L_b(θ)⟩: where parameters go to align two gradients (Pang et al. 2021, G_t in Eq. 9)."""
    leaves = _leaves(params)
    a = _grad(loss_a(leaves), leaves, create_graph=True)
    b = _grad(loss_b(leaves), leaves, create_graph=True)
    return _grad(inner(a, b, normalise), leaves)


def accumulation_derivative(
    loss_a: LossAt,
    loss_b: SampleLossAt,
    params: Mapping[str, Tensor],
    x: Tensor,
    direction: Mapping[str, Tensor],
    normalise: Normalise = "none",
    outer: Normalise = "none",
) -> Tensor:
    """∇ₓ ⟨v, ∇_θ ⟨∇_θ L_a(θ), ∇_θ L_b(x; θ)⟩⟩, of the shape of x: how samples of L_b steer the direction G_t towards v.

    `normalise` says how the inner product of the two gradients is taken, `outer` the one with v.
    This is ∇ of H_t with respect to the trigger batch in Pang et al. 2021, Algorithm 1: a third derivative of L_b.
    """
    leaves = _leaves(params)
    x = x.detach().requires_grad_(True)
    a = _grad(loss_a(leaves), leaves, create_graph=True)
    b = _grad(loss_b(leaves, x), leaves, create_graph=True)
    towards = _grad(inner(a, b, normalise), leaves, create_graph=True)
    (derivative,) = torch.autograd.grad(inner(towards, direction, outer), x)
    return derivative


def hessian_vector_product(loss: LossAt, params: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Tensors:
    """∇²_θ L(θ) v, by name."""
    leaves = _leaves(params)
    return _grad(inner(_grad(loss(leaves), leaves, create_graph=True), direction), leaves)


def _leaves(params: Mapping[str, Tensor]) -> Tensors:
    return {name: value.detach().requires_grad_(True) for name, value in params.items()}


def _grad(value: Tensor, leaves: Tensors, *, create_graph: bool = False) -> Tensors:
    if not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(value, list(leaves.values()), create_graph=create_graph, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def _norm(a: Mapping[str, Tensor]) -> Tensor:
    """Of all tensors together, never zero."""
    squares = torch.stack([value.square().sum() for value in a.values()]).sum()
    return (squares + torch.finfo(squares.dtype).tiny).sqrt()


def _norms(a: Mapping[str, Tensor]) -> Tensors:
    """Of each tensor, not under the noise of the whole; that floor is held constant when it is differentiated."""
    whole = _norm(a).detach()
    floor = (_NOISE * torch.finfo(whole.dtype).eps * whole).square() + torch.finfo(whole.dtype).tiny
    return {name: (value.square().sum() + floor).sqrt() for name, value in a.items()}
