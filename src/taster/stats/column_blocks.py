"""Passes over a matrix [m, d] block of columns by block of columns, so that temporaries stay small."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_NUMBERS = {"cpu": 2**18}
"""Numbers in a block, by device type; on a CPU one to two megabytes, which fit its caches."""
_ELSEWHERE = 2**24
"""Numbers in a block on other devices, where a call costs more and caches matter less."""


def column_blocks(values: Tensor) -> Iterator[slice]:
    """Slices that cover the columns of [m, d]; m times the width of each is about the number set for the device."""
    width = max(1, _NUMBERS.get(values.device.type, _ELSEWHERE) // len(values))
    for start in range(0, values.shape[1], width):
        yield slice(start, min(start + width, values.shape[1]))


def in_float64(values: Tensor) -> Iterator[Tensor]:
    """Blocks of columns in float64, [m, c]. They share their memory: each is overwritten when the next is requested."""
    held: Tensor | None = None
    for block in column_blocks(values):
        part = values[:, block]
        if values.dtype == torch.float64:
            yield part
            continue
        if held is None or held.shape != part.shape:
            held = torch.empty(part.shape, dtype=torch.float64, device=values.device)
        yield held.copy_(part)
