"""The rules that are compared, and what each is given: one file a toolkit returns them by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

Matrix = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Updates:
    """The same updates for every toolkit.

    Attributes:
        values: [n, d], float32, on the CPU.
        num_byzantine: f.
    """

    values: Tensor
    num_byzantine: int

    @property
    def array(self) -> Matrix:
        """The same memory as NumPy sees it."""
        return self.values.numpy()

    @cached_property
    def clip_norm(self) -> float:
        """The median length of an update, to which clipping rules clip."""
        return float(self.values.norm(dim=1).nanmedian())


@dataclass(frozen=True)
class Rule:
    """A toolkit's aggregation rule.

    Attributes:
        ready: makes the rule and what it is given of the updates, and returns the call that aggregates.
        neighbors: for rules after Krum, of n and f: how many distances to others a score sums.
    """

    ready: Callable[[Updates], Callable[[], Any]]
    neighbors: Callable[[int, int], int] = lambda n, f: n - f - 2
