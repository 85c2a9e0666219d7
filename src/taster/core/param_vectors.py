"""Gradients as vectors and as rows of a matrix; the parameters and buffers that they belong to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from taster.core.types import Tensors


def flatten(gradient: Mapping[str, Tensor]) -> Tensor:
    """A gradient as one vector [d], in the order of its names."""
    return torch.cat([value.reshape(-1) for value in gradient.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Tensors:
    """A vector [d] as tensors of these names and shapes, in their order; views of the vector."""
    parts = torch.split(vector, [value.numel() for value in like.values()])
    return {name: part.reshape(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}


def trainable_parameters(model: nn.Module) -> Tensors:
    """The parameters that require a gradient, by name, detached."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def floating_buffers(model: nn.Module) -> Tensors:
    """The floating-point buffers, by name: those that can be averaged."""
    return {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}


def finite_rows(values: Tensor) -> Tensor:
    """Which rows of [m, d] hold neither NaN nor infinity, [m]; read once, with nothing beside it of the matrix's size.

    A sum is finite only where all that went into it is. Where it is not, large numbers may have made it so: there the
    row's least and greatest number decide.
    """
    found = values.detach().sum(1).isfinite()
    for i in (~found).nonzero().flatten().tolist():
        low, high = torch.aminmax(values[i].detach())
        found[i] = low.isfinite() & high.isfinite()
    return found


@torch.no_grad()
def global_norm(gradient: Mapping[str, Tensor]) -> float:
    """The l2 norm over all tensors together, sparse ones included."""
    values = [value.coalesce().values() if value.is_sparse else value for value in gradient.values()]
    # Squares of finite float16 values overflow in that format.
    values = [value.float() if value.dtype is torch.float16 else value for value in values]
    if not values:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values))))
