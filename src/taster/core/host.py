"""The one place where a step reads numbers from the device: each reading makes the host wait for all work before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def to_host(*tensors: Tensor) -> list[Any]:
    """The values of tensors as Python numbers, all fetched by one transfer.

        loss, norm, rows = to_host(loss, norm, rows)

    Whatever their shapes and dtypes, they are packed byte by byte on their device, so that each value is exact and the
    host waits once, and not once a number. Tensors on several devices take one transfer for each device.

    Args:
        tensors: dense; a graph behind them is left out.

    Returns:
        for each what `torch.Tensor.tolist` gives: a number for a tensor without dimensions, nested lists for others.
    """
    found: list[Any] = [None] * len(tensors)
    by_device: dict[torch.device, list[int]] = {}
    for i, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(i)
    for places in by_device.values():
        for i, values in zip(places, _fetched([tensors[i].detach() for i in places]), strict=True):
            found[i] = values
    return found


class Readings:
    """Numbers that are still on the device, each with what is to be done once it is known: fetched all at once.

    readings = Readings()
    readings.add([loss.isnan()], refuse_if)     # nothing waits
    ...
    readings.read()                             # one wait
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Sequence[Tensor], Callable[[list[Any]], None]]] = []

    def add(self, tensors: Sequence[Tensor], then: Callable[[list[Any]], None]) -> None:
        """Has `then` called with the tensors' values when they are read."""
        self._waiting.append((tensors, then))

    def read(self) -> None:
        """Fetches all that was added since the last reading, and does what is to be done, in the order of adding. What
        one of them raises leaves out those after it."""
        waiting, self._waiting = self._waiting, []
        values = iter(to_host(*(tensor for tensors, _ in waiting for tensor in tensors)))
        for tensors, then in waiting:
            then([next(values) for _ in tensors])


def _fetched(tensors: list[Tensor]) -> list[Any]:
    """The values of tensors of one device: the only wait of a step. Tests count its calls."""
    if len(tensors) == 1:
        return [tensors[0].tolist()]
    packed = torch.cat([_bytes(tensor) for tensor in tensors]).cpu()
    parts = torch.split(packed, [tensor.numel() * tensor.element_size() for tensor in tensors])
    # Cloned, since a number may begin only where its size divides the place.
    return [part.clone().view(t.dtype).reshape(t.shape).tolist() for part, t in zip(parts, tensors, strict=True)]


def _bytes(tensor: Tensor) -> Tensor:
    """A tensor's values as bytes, [n]."""
    return tensor.resolve_conj().resolve_neg().reshape(-1).contiguous().view(torch.uint8)
