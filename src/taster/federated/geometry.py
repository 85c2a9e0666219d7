"""Norms and inner products of clients' updates, each from one pass over the matrix."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from taster.pgd import Norm

_BLOCK = 2**21
"""Numbers of the matrix that are worked on at a time: what is held beside it stays under a few dozen MB."""


def column_blocks(values: Tensor) -> Iterator[slice]:
    """Slices of columns of [m, d], so that a block of all rows has about `_BLOCK` numbers."""
    width = max(1, _BLOCK // len(values))
    for start in range(0, values.shape[1], width):
        yield slice(start, min(start + width, values.shape[1]))


def gram(values: Tensor) -> Tensor:
    """⟨vᵢ, vⱼ⟩ of the rows of [m, d], [m, m] in float64.

    Products are taken in float64: distances between rows that lie close together and far from zero are differences of
    large numbers.
    """
    found = torch.zeros(len(values), len(values), dtype=torch.float64, device=values.device)
    for block in column_blocks(values):
        part = values[:, block].double()
        found.addmm_(part, part.t())
    return found


class Geometry:
    """Rows of updates [m, d], or mixtures of them, as points: what rules that go by distances look at.

    Args:
        values: [m, d]; never copied.
        mixing: [r, m]: the rows are `mixing` @ values, which is not computed; None takes them as they are.
    """

    def __init__(self, values: Tensor, mixing: Tensor | None = None, of: Geometry | None = None) -> None:
        self.values = values
        self.mixing = mixing
        self._of = of

    def __len__(self) -> int:
        return len(self.values) if self.mixing is None else len(self.mixing)

    @cached_property
    def gram(self) -> Tensor:
        """Inner products of the rows, float64."""
        if self.mixing is None:
            return gram(self.values)
        whole = gram(self.values) if self._of is None else self._of.gram
        return self.mixing @ whole @ self.mixing.t()

    @cached_property
    def distances(self) -> Tensor:
        """Squared Euclidean distances between the rows, float64, never under 0."""
        squares = self.gram.diagonal()
        return (squares[:, None] + squares[None, :] - 2 * self.gram).clamp_min(0)

    def norms(self, norm: Norm = "l2") -> Tensor:
        """Of each row, float64."""
        if norm == "l2" and (self.mixing is not None or "gram" in self.__dict__):
            return self.gram.diagonal().clamp_min(0).sqrt()
        found = torch.zeros(len(self), dtype=torch.float64, device=self.values.device)
        for block in column_blocks(self.values):
            part = self.values[:, block].double()
            if self.mixing is not None:
                part = self.mixing @ part
            own = part.square().sum(1) if norm == "l2" else part.abs().amax(1)
            found = found + own if norm == "l2" else torch.maximum(found, own)
        return found.sqrt() if norm == "l2" else found

    def mixed(self, mixing: Tensor) -> Geometry:
        """These rows mixed further, [r', r] @ rows."""
        whole = self if self.mixing is None else self._of or Geometry(self.values)
        return Geometry(self.values, mixing if self.mixing is None else mixing @ self.mixing, whole)
