"""Labelled rows of numbers or token ids in memory, and what all kinds of samples have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from taster.data.images import Images


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of numbers, or of token ids, and their labels.

    Attributes:
        x: float32 [n, d], or int64 [n, length].
        y: int64 [n].
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def select(self, index: Tensor) -> Rows:
        """The rows at these positions."""
        return Rows(self.x[index], self.y[index])

    def to(self, device: torch.device | str) -> Rows:
        """The rows on another device."""
        return Rows(self.x.to(device), self.y.to(device))


Samples = Images | Rows
"""Samples of one role."""


class DataInfo(Protocol):
    """What is known of a data set before any sample is looked at: of an `ImageSet`, a `TableSet` or a `TokenSet`."""

    @property
    def name(self) -> str:
        """As the user gave it."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""

    @property
    def value_range(self) -> tuple[float, float]:
        """The smallest and the largest value that a training sample may have."""

    @property
    def vocabulary(self) -> int | None:
        """Number of tokens, whose ids are from 0 on; None where samples are no token ids."""
