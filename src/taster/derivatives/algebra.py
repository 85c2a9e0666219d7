"""Gradients as vectors: inner products with three kinds of normalization, and their derivatives.

A gradient is a dict by parameter name. The inner product of two gradients has one of three normalizations:

    none        Σₚ ⟨aₚ, bₚ⟩
    global      Σₚ ⟨aₚ, bₚ⟩ / (‖a‖ ‖b‖)               one cosine over all parameters
    per_tensor  Σₚ ⟨aₚ, bₚ⟩ / (‖aₚ‖ ‖bₚ‖)             a cosine for each parameter tensor, added up
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from taster.core.types import Tensors
from taster.derivatives.layouts import Layout, layout_for

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
    layout = layout_for(a)
    own = layout.load(a)
    return layout.unload(layout.scaled(own, 1 / _norms(layout, own, normalize)), a)


def weighted_sum(terms: Sequence[tuple[float, Mapping[str, Tensor]]], normalize: Normalize) -> Tensors:
    """V = Σᵢ wᵢ vᵢ, each vᵢ normalized, so that Σᵢ wᵢ inner(g, vᵢ) = `normalized_inner`(g, V) for every g."""
    (weight, first), *others = terms
    total = torch._foreach_mul(list(normalized(first, normalize).values()), weight)
    for weight, direction in others:
        part = normalized(direction, normalize)
        total = torch._foreach_add(total, [part[name] for name in first], alpha=weight)
    return dict(zip(first, total, strict=True))


def normalized_inner(own: Mapping[str, Tensor], towards: Mapping[str, Tensor], normalize: Normalize) -> Tensor:
    """Σₚ ⟨gₚ, Vₚ⟩ / nₚ, where nₚ is the norm of g that p is normalized by; a differentiable scalar."""
    layout = layout_for(own)
    held = layout.load(own)
    products = layout.products(held, layout.load({name: towards[name] for name in own}))
    return (products if normalize == "none" else products / _norms(layout, held, normalize)).sum()


def normalized_inner_grad(own: Mapping[str, Tensor], towards: Mapping[str, Tensor], normalize: Normalize) -> Tensors:
    """The gradient of `normalized_inner`(g, V) in g: with n the norm of g, u = V / n − ⟨g, V⟩ g / n³."""
    if normalize == "none":
        return dict(towards)
    layout = layout_for(own)
    held, target = layout.load(own), layout.load({name: towards[name] for name in own})
    norms, products = _norms(layout, held, normalize), layout.products(held, target)
    if normalize == "global":
        products = products.sum().expand_as(norms)
    # Divided by n one factor at a time: n³ of a vanishing gradient underflows.
    across = layout.added(target, held, -(products / norms / norms))
    return layout.unload(layout.scaled(across, 1 / norms), own)


def _norms(layout: Layout, held: Any, normalize: Normalize) -> Tensor:
    """The norm that each tensor is divided by, which is never zero, [tensors].

    The norm of a single tensor has the noise of the whole gradient as its floor, which derivatives take as a constant.
    """
    squares = layout.products(held, held)
    whole = squares.sum()
    tiny = torch.finfo(whole.dtype).tiny
    if normalize == "global":
        return (whole + tiny).sqrt().expand_as(squares)
    floor = (_NOISE * torch.finfo(whole.dtype).eps) ** 2 * whole.detach() + tiny
    return (squares + floor).sqrt()
