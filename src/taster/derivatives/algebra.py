"""Gradients as vectors: inner products with three kinds of normalization, and their derivatives.

A gradient is a dict by parameter name. The inner product of two gradients has one of three normalizations:

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

Normalize = Literal["none", "global", "per_tensor"]

# A tensor whose gradient is smaller than this many rounding errors of the whole gradient is rounding error itself (such
# as the bias of attention's keys) and is not scaled to unit norm. This also avoids division by zero.
_NOISE = 100.0


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor], normalize: Normalize = "none") -> Tensor:
    """The normalized inner product of two gradients, a scalar."""
    return normalized_inner(a, normalized(b, normalize), normalize)


def normalized(a: Mapping[str, Tensor], normalize: Normalize) -> Tensors:
    """A gradient scaled to unit norm, as a whole or tensor by tensor; unchanged for "none"."""
    if normalize == "none":
        return dict(a)
    norms = _norms(a, normalize)
    return {name: value / norms[name] for name, value in a.items()}


def weighted_sum(terms: Sequence[tuple[float, Mapping[str, Tensor]]], normalize: Normalize) -> Tensors:
    """V = Σᵢ wᵢ vᵢ, each vᵢ normalized, so that Σᵢ wᵢ inner(g, vᵢ) = `normalized_inner`(g, V) for every g."""
    parts = [(weight, normalized(direction, normalize)) for weight, direction in terms]
    return {name: torch.stack([weight * part[name] for weight, part in parts]).sum(0) for name in parts[0][1]}


def normalized_inner(own: Mapping[str, Tensor], towards: Mapping[str, Tensor], normalize: Normalize) -> Tensor:
    """Σₚ ⟨gₚ, Vₚ⟩ / nₚ, where nₚ is the norm of g that p is normalized by; a differentiable scalar."""
    products = [(own[name] * towards[name]).sum() for name in own]
    if normalize == "none":
        return torch.stack(products).sum()
    norms = _norms(own, normalize)
    return torch.stack([product / norms[name] for name, product in zip(own, products, strict=True)]).sum()


def normalized_inner_grad(own: Mapping[str, Tensor], towards: Mapping[str, Tensor], normalize: Normalize) -> Tensors:
    """The gradient of `normalized_inner`(g, V) in g: with n the norm of g, u = V / n − ⟨g, V⟩ g / n³."""
    if normalize == "none":
        return dict(towards)
    norms = _norms(own, normalize)
    products = {name: (own[name] * towards[name]).sum() for name in own}
    if normalize == "global":
        whole = torch.stack(list(products.values())).sum()
        products = dict.fromkeys(own, whole)
    # Divided by n one factor at a time: n³ of a vanishing gradient underflows.
    return {
        name: torch.addcmul(towards[name], own[name] / norms[name], products[name] / norms[name], value=-1)
        / norms[name]
        for name in own
    }


def _norms(a: Mapping[str, Tensor], normalize: Normalize) -> Tensors:
    """The norm that each tensor is divided by, which is never zero.

    The norm of a single tensor has the noise of the whole gradient as its floor, which derivatives take as a constant.
    """
    squares = {name: value.square().sum() for name, value in a.items()}
    whole = torch.stack(list(squares.values())).sum()
    tiny = torch.finfo(whole.dtype).tiny
    if normalize == "global":
        return dict.fromkeys(a, (whole + tiny).sqrt())
    floor = (_NOISE * torch.finfo(whole.dtype).eps) ** 2 * whole.detach() + tiny
    return {name: (square + floor).sqrt() for name, square in squares.items()}
