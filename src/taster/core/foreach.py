"""Copies of many tensors at once: a launch for each device and dtype, and not one for each tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

_FOREACH = frozenset(
    {
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    }
)
"""The dtypes that `torch._foreach_copy_` takes on every device."""


@torch.no_grad()
def copy_tensors(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copies each source into its target, which has its shape, dtype and device.

    A single tensor of another dtype, or with gaps between its elements, would have torch copy the whole list one by
    one. So tensors go by device and dtype, those that are not contiguous apart, and rare kinds one by one.
    """
    groups: dict[tuple[torch.device, torch.dtype, bool], tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        if _is_plain(source):
            key = source.device, source.dtype, source.is_contiguous() and target.is_contiguous()
            into, out_of = groups.setdefault(key, ([], []))
            into.append(target)
            out_of.append(source)
        else:
            target.copy_(source)
    for into, out_of in groups.values():
        torch._foreach_copy_(into, out_of)


@torch.no_grad()
def cloned_tensors(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What `tensor.detach().clone()` gives of each."""
    found = [tensor.detach() for tensor in tensors]
    plain = [i for i, tensor in enumerate(found) if _is_plain(tensor)]
    copies = [torch.empty_like(found[i]) for i in plain]
    copy_tensors(copies, [found[i] for i in plain])
    chosen = dict(zip(plain, copies, strict=True))
    return [chosen[i] if i in chosen else tensor.clone() for i, tensor in enumerate(found)]


def _is_plain(tensor: Tensor) -> bool:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
        return False
    return tensor.dtype in _FOREACH and not is_functorch_wrapped_tensor(tensor)
