"""Gradients as vectors and as rows of a matrix; the parameters and buffers that they belong to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from taster.core.host import to_host
from taster.core.types import Tensors

_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers by their size in bytes."""


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


def global_norm(gradient: Mapping[str, Tensor]) -> float:
    """The l2 norm over all tensors together, sparse ones included."""
    found: float = to_host(global_norm_tensor(gradient))[0]
    return found


@torch.no_grad()
def global_norm_tensor(gradient: Mapping[str, Tensor]) -> Tensor:
    """The same on the device, []: nothing waits for it."""
    values = [value.coalesce().values() if value.is_sparse else value for value in gradient.values()]
    # Squares of finite float16 values overflow in that format.
    values = [value.float() if value.dtype is torch.float16 else value for value in values]
    if not values:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
    return norm


@torch.no_grad()
def bits_differ(one: Tensor, other: Tensor) -> Tensor:
    """Whether two tensors differ in shape, dtype, device or any bit, []: NaN is the same as itself."""
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return torch.tensor(True)
    if one.layout is not torch.strided:
        return torch.tensor(not torch.equal(one, other))
    return torch.any(torch.ne(_bits(one.detach()), _bits(other.detach())))


def _bits(tensor: Tensor) -> Tensor:
    """The tensor as whole numbers of the same size."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.view(_WHOLE[tensor.element_size()])
