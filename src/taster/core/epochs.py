"""The order in which a training sees its samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, repeat

import torch
from torch import Tensor


class Epochs:
    """Divides a set into batches, in a new random order for each epoch.

    Samples of equal weight come once an epoch. Where weights differ, as many samples as have a weight are drawn with
    replacement, each in proportion to it. Samples of weight 0 never come.

    Args:
        weights: of the samples, [n], at least 0 and one of them above.
        batch_size: at most so many in a batch; batches differ by one sample at most.
        generator: of the order.
        subsample: share of the samples of some weight that is drawn once and for all.

    Attributes:
        batches: in an epoch.
        generator: of the order.
    """

    def __init__(self, weights: Tensor, batch_size: int, generator: torch.Generator, subsample: float = 1.0) -> None:
        kept = weights.cpu().nonzero().flatten()
        if subsample < 1:
            count = max(1, round(subsample * len(kept)))
            kept = kept[torch.randperm(len(kept), generator=generator)[:count].sort().values]
        self._kept = kept
        self._weights = weights.cpu()[kept].double()
        self._equal = bool((self._weights == self._weights[0]).all())
        self.generator = generator
        self.batches: int = math.ceil(len(kept) / batch_size)

    @property
    def samples(self) -> int:
        """How many samples may come."""
        return len(self._kept)

    def __iter__(self) -> Iterator[Tensor]:
        """One epoch: the places of the samples of each batch, int64."""
        if self._equal:
            order = torch.randperm(self.samples, generator=self.generator)
        else:
            order = torch.multinomial(self._weights, self.samples, replacement=True, generator=self.generator)
        yield from self._kept[order].tensor_split(self.batches)

    def endless(self) -> Iterator[Tensor]:
        """One epoch after the other, without end; see `__iter__`."""
        return chain.from_iterable(repeat(self))
