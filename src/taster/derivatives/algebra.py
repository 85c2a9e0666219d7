"""Gradients as vectors: inner products in three ways, and how each way's value changes with a gradient.

A gradient is a dict by parameter name. An inner product of two is taken in one of three ways:

    none        Σₚ ⟨aₚ, bₚ⟩
    global      Σₚ ⟨aₚ, bₚ⟩ / (‖a‖ ‖b‖)               one cosine over all parameters
    per_tensor  Σₚ ⟨aₚ, bₚ⟩ / (‖aₚ‖ ‖bₚ‖)             a cosine for each parameter tensor, added up
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from taster.core.types import Tensors

Normalise = Literal["none", "global", "per_tensor"]

# A tensor whose gradient is smaller than this many rounding errors of the whole gradient is rounding error itself (the
# bias of attention's keys, say) and is not blown up to unit norm; nor is anything divided by zero.
_NOISE = 100.0


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor], normalise: Normalise = "none") -> Tensor:
    """The inner product of two gradients in one of the three ways of this module, one number."""
    return aligned(a, normalised(b, normalise), normalise)


def normalised(a: Mapping[str, Tensor], normalise: Normalise) -> Tensors:
    """A gradient brought to unit norm: as a whole, or each tensor by itself; "none" returns it as it is."""
    if normalise == "none":
        return dict(a)
    norms = _norms(a, normalise)
    return {name: value / norms[name] for name, value in a.items()}


def combined(terms: Sequence[tuple[float, Mapping[str, Tensor]]], normalise: Normalise) -> Tensors:
    """V = Σᵢ wᵢ vᵢ, each vᵢ normalised: Σᵢ wᵢ inner(g, vᵢ) is `aligned`(g, V), whatever g."""
    parts = [(weight, normalised(direction, normalise)) for weight, direction in terms]
    return {name: torch.stack([weight * part[name] for weight, part in parts]).sum(0) for name in parts[0][1]}


def aligned(own: Mapping[str, Tensor], towards: Mapping[str, Tensor], normalise: Normalise) -> Tensor:
    """Σₚ ⟨gₚ, Vₚ⟩ over the norm of g that belongs to p, one number, differentiable."""
    products = [(own[name] * towards[name]).sum() for name in own]
    if normalise == "none":
        return torch.stack(products).sum()
    norms = _norms(own, normalise)
    return torch.stack([product / norms[name] for name, product in zip(own, products, strict=True)]).sum()


def pull(own: Mapping[str, Tensor], towards: Mapping[str, Tensor], normalise: Normalise) -> Tensors:
    """The gradient of `aligned`(g, V) in g: the one direction u whose plain inner product with g changes as it does.

    With n the norm of g: u = V / n − ⟨g, V⟩ g / n³.
    """
    if normalise == "none":
        return dict(towards)
    norms = _norms(own, normalise)
    products = {name: (own[name] * towards[name]).sum() for name in own}
    if normalise == "global":
        whole = torch.stack(list(products.values())).sum()
        products = dict.fromkeys(own, whole)
    # Divided by n one factor at a time: n³ of a vanishing gradient is no number.
    return {
        name: torch.addcmul(towards[name], own[name] / norms[name], products[name] / norms[name], value=-1)
        / norms[name]
        for name in own
    }


def size(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm of all of them together."""
    return float(torch.stack(torch._foreach_norm([t.detach() for t in tensors])).norm())


def _norms(a: Mapping[str, Tensor], normalise: Normalise) -> Tensors:
    """The norm that each tensor is divided by; never zero.

    That of a single tensor is not under the noise of the whole, a floor that is held constant in derivatives.
    """
    squares = {name: value.square().sum() for name, value in a.items()}
    whole = torch.stack(list(squares.values())).sum()
    tiny = torch.finfo(whole.dtype).tiny
    if normalise == "global":
        return dict.fromkeys(a, (whole + tiny).sqrt())
    floor = (_NOISE * torch.finfo(whole.dtype).eps) ** 2 * whole.detach() + tiny
    return {name: (square + floor).sqrt() for name, square in squares.items()}
