"""Rules that look at one coordinate at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.federated.aggregators.aggregator import Aggregator
from taster.utils.settings import validate_settings

NumByzantine = Annotated[int, Field(ge=0)]


@validate_settings
def coordinate_median() -> Aggregator:
    """The median of each coordinate, whatever the weights; the middle two's mean for an even number of clients.

    Source: Yin et al. 2018, Definition 1.
    """
    return Aggregator("coordinate_median", column_reduce=column_median)


@validate_settings
def trimmed_mean(*, num_byzantine: NumByzantine = 1) -> Aggregator:
    """The mean of each coordinate without its largest and smallest values, whatever the weights.

    Args:
        num_byzantine: b, values left out at either end.

    Source: Yin et al. 2018, Definition 2.
    """

    def trimmed(part: Tensor) -> Tensor:
        return sorted_columns(part)[:, num_byzantine : len(part) - num_byzantine].mean(1)

    return Aggregator("trimmed_mean", column_reduce=trimmed, min_clients=2 * num_byzantine + 1)


def column_median(part: Tensor) -> Tensor:
    """The median of each column of [r, c], [c]."""
    columns, middle = sorted_columns(part), (len(part) - 1) // 2
    return (columns[:, middle] + columns[:, len(part) - 1 - middle]) / 2


def mean_around_median(count: int) -> Callable[[Tensor], Tensor]:
    """The mean of the `count` values of each column that lie nearest to its median; the smaller of two as near."""

    def merge(part: Tensor) -> Tensor:
        columns = sorted_columns(part)
        clients = columns.shape[1]
        middle = (clients - 1) // 2
        center = ((columns[:, middle] + columns[:, clients - 1 - middle]) / 2)[:, None]
        # In order, the nearest stand side by side. A window of so many moves on while the next value is nearer than
        # the first, and that once false stays so: how often it is true is where the window comes to lie.
        first = ((columns[:, count:] - center) < (center - columns[:, : clients - count])).sum(1)
        first += torch.arange(0, columns.numel(), clients, device=columns.device)
        windows = columns.as_strided((columns.numel() - count + 1, count), (1, 1))
        return windows.index_select(0, first).mean(1)

    return merge


def sorted_columns(part: Tensor) -> Tensor:
    """The columns of [r, c] as rows in rising order, [c, r]."""
    # In two steps: read across rows that do not begin where a line of the cache does, the matrix took thrice as long.
    rows = part.contiguous().t().contiguous()
    if rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.float64):
        # Seventeen times as fast as torch.sort where it was measured, a CPU with AVX-512.
        own = rows.numpy()
        own.sort(axis=1)
        return rows
    return rows.sort(dim=1).values
