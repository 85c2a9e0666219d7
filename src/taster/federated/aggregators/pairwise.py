"""Norms and inner products of clients' updates, each from one pass over the matrix."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from taster.federated.aggregators.column_blocks import column_blocks, in_float64
from taster.perturbations.pgd import Norm

_TILE = 24
"""Rows of a tile of the Gram matrix, of which only those on and under the diagonal are computed."""


def gram(values: Tensor) -> Tensor:
    """⟨vᵢ, vⱼ⟩ of the rows of [m, d], [m, m] in float64.

    Products are taken in float64: distances between rows that lie close together and far from zero are differences of
    large numbers, and which of two updates lies nearer may hang on the ninth digit.
    """
    m = len(values)
    found = torch.zeros(m, m, dtype=torch.float64, device=values.device)
    tile = _TILE if values.device.type == "cpu" else m
    for part in in_float64(values):
        for start in range(0, m, tile):
            found[start:, start : start + tile].addmm_(part[start:], part[start : start + tile].t())
    return found.tril() + found.tril(-1).t()


def inner_products(values: Tensor, others: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """⟨vᵢ, oᵢ⟩ of the rows of [m, d] and others that are given block by block, [m] in float64.

    Products and their sums within a block are float32 (float64 of float64), sums over blocks float64. The sum is
    `torch.sum`'s, which adds up in a tree: of 5,000 equal float32 numbers a running sum, as norms and matrix products
    take it, is off by 1e-5 to 1e-4, a tree by less than 1e-6.

    Args:
        values: [m, d].
        others: from a block of columns [m, c] and where it lies to the others' part, [c] for all rows alike or [m, c].
    """
    found = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    held: Tensor | None = None
    for block in column_blocks(values):
        part = values[:, block]
        part = part if part.dtype in (torch.float32, torch.float64) else part.float()
        if held is None or held.shape != part.shape:
            held = torch.empty(part.shape, dtype=part.dtype, device=part.device)
        found += torch.mul(part, others(part, block), out=held).sum(1)
    return found


def squared_norms(values: Tensor) -> Tensor:
    """‖vᵢ‖² of the rows of [m, d], [m] in float64; as in `products`, but all in float64 where squares leave the range
    of float32."""
    found = inner_products(values, lambda part, _: part)
    if values.dtype == torch.float64 or in_range(found):
        return found
    found.zero_()
    for part in in_float64(values):
        found += torch.linalg.vector_norm(part, dim=1).square()
    return found


def in_range(squares: Tensor) -> bool:
    """Whether sums of squares may be taken in float32: none overflows, and squares that are too small for it add
    nothing beside the rest."""
    return bool(((squares > 1e-20) & (squares < 1e38)).all())


class PairwiseGeometry:
    """Rows of updates [m, d], or mixtures of them, as points: what rules that go by distances look at.

    Args:
        values: [m, d]; never copied.
        mixing: [r, m]: the rows are `mixing` @ values, which is not computed; None takes them as they are.
    """

    def __init__(self, values: Tensor, mixing: Tensor | None = None, of: PairwiseGeometry | None = None) -> None:
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

    @cached_property
    def squared_norms(self) -> Tensor:
        """Squared lengths of the rows, [r], float64; of mixtures from the inner products."""
        if self.mixing is not None or "gram" in self.__dict__:
            return self.gram.diagonal().clamp_min(0)
        return squared_norms(self.values)

    def norms(self, norm: Norm = "l2") -> Tensor:
        """Of each row, float64."""
        if norm == "l2":
            return self.squared_norms.sqrt()
        if self.mixing is None:
            return torch.maximum(self.values.amax(1), -self.values.amin(1)).double()
        found = torch.zeros(len(self), dtype=torch.float64, device=self.values.device)
        for part in in_float64(self.values):
            found = torch.maximum(found, (self.mixing @ part).abs().amax(1))
        return found

    def inner_products(self, z: Tensor) -> Tensor:
        """⟨rowᵢ, Σ zⱼ rowⱼ⟩ for z [r] whose sizes add up to 1 at most, [r] float64.

        Where the inner products of all pairs are not known yet, and rows are as they came, from one pass without them,
        as in `products`: for float32 off by some 1e-7 of the product of the two lengths. No row in range has a product
        with such a mixture that is not. Else from the inner products.
        """
        if self.mixing is None and "gram" not in self.__dict__ and in_range(self.squared_norms):
            return inner_products(self.values, lambda part, _: z.to(part.dtype) @ part)
        return self.gram @ z

    def mix(self, mixing: Tensor) -> PairwiseGeometry:
        """These rows mixed further, [r', r] @ rows."""
        whole = self if self.mixing is None else self._of or PairwiseGeometry(self.values)
        return PairwiseGeometry(self.values, mixing if self.mixing is None else mixing @ self.mixing, whole)
