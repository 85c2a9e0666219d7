"""Blocks of columns of a matrix of updates: all that is ever held beside it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_NUMBERS = {"cpu": 2**18}
"""Numbers in a block, by the kind of device; on a CPU a megabyte or two, which its caches hold."""
_ELSEWHERE = 2**24
"""Numbers in a block on other devices, where a call costs more and caches matter less."""


def column_blocks(values: Tensor) -> Iterator[slice]:
    """Slices of columns of [m, d], so that a block of all rows has about as many numbers as is set."""
    width = max(1, _NUMBERS.get(values.device.type, _ELSEWHERE) // len(values))
    for start in range(0, values.shape[1], width):
        yield slice(start, min(start + width, values.shape[1]))


def in_float64(values: Tensor) -> Iterator[Tensor]:
    """Blocks of columns in float64, [m, c], each gone when the next is asked for: they share their memory."""
    held: Tensor | None = None
    for block in column_blocks(values):
        part = values[:, block]
        if values.dtype == torch.float64:
            yield part
            continue
        if held is None or held.shape != part.shape:
            held = torch.empty(part.shape, dtype=torch.float64, device=values.device)
        yield held.copy_(part)
