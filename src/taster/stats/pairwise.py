"""Norms, inner products and distances of the rows of a matrix, each from one pass over it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from taster.errors import BatchError
from taster.stats.column_blocks import column_blocks, in_float64

_TILE = 24
"""Rows of a tile of the Gram matrix; only tiles on and under the diagonal are computed."""


def gram_matrix(values: Tensor) -> Tensor:
    """⟨vᵢ, vⱼ⟩ of the rows of [m, d], [m, m] in float64.

    Products are computed in float64: distances between rows that lie close together and far from zero are differences
    of large numbers, and which of two rows is nearer may depend on the ninth digit.
    """
    m = len(values)
    found = torch.zeros(m, m, dtype=torch.float64, device=values.device)
    tile = _TILE if values.device.type == "cpu" else m
    for part in in_float64(values):
        for start in range(0, m, tile):
            found[start:, start : start + tile].addmm_(part[start:], part[start : start + tile].t())
    return found.tril() + found.tril(-1).t()


def squared_distances(gram: Tensor) -> Tensor:
    """Squared Euclidean distances between rows, [m, m], from their Gram matrix; at least 0."""
    squares = gram.diagonal()
    return (squares[:, None] + squares[None, :] - 2 * gram).clamp_min(0)


def inner_products(values: Tensor, others: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """⟨vᵢ, oᵢ⟩ of the rows of [m, d] and others that are given block by block, [m] in float64.

    Products and their sums within a block are float32 (float64 of float64), sums over blocks float64. The sum is
    `torch.sum`'s, which is pairwise: of 5,000 equal float32 numbers a running sum, as in norms and matrix products, is
    off by 1e-5 to 1e-4, a pairwise one by less than 1e-6.

    Args:
        values: [m, d].
        others: maps a block of columns [m, c] and its slice to the others' part, [c] (the same for all rows) or [m, c].
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
    """‖vᵢ‖² of the rows of [m, d], [m] in float64; computed as in `inner_products`, or in float64 throughout where
    squares leave the range of float32."""
    found = inner_products(values, lambda part, _: part)
    if values.dtype == torch.float64 or in_float32_range(found):
        return found
    found.zero_()
    for part in in_float64(values):
        found += torch.linalg.vector_norm(part, dim=1).square()
    return found


def in_float32_range(squares: Tensor) -> bool:
    """Whether sums of squares may be computed in float32: none overflows, and squares that underflow are negligible."""
    return bool(((squares > 1e-20) & (squares < 1e38)).all())


class PairwiseGeometry:
    """The rows of [m, d], or linear combinations of them, by their norms, inner products and distances.

    Args:
        values: [m, d]; never copied.
        mixing: [r, m]: the rows are `mixing` @ values, which is not computed; None for the rows of `values`.
        unmixed: the geometry of `values` themselves, so that their Gram matrix is computed once; None makes one.

    Raises (where squared norms or inner products are asked for):
        BatchError: for rows with numbers that are not finite, of which nothing is nearest.
    """

    def __init__(self, values: Tensor, mixing: Tensor | None = None, unmixed: PairwiseGeometry | None = None) -> None:
        self.values = values
        self.mixing = mixing
        self._unmixed = unmixed if unmixed is not None or mixing is None else PairwiseGeometry(values)
        self._gram: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values) if self.mixing is None else len(self.mixing)

    @property
    def gram(self) -> Tensor:
        """Inner products of the rows, [r, r], float64; computed at first use."""
        if self._gram is None:
            if self._unmixed is None or self.mixing is None:
                self._gram = gram_matrix(self.values)
                _check_finite(self._gram.diagonal())
            else:
                self._gram = self.mixing @ self._unmixed.gram @ self.mixing.t()
        return self._gram

    @cached_property
    def distances(self) -> Tensor:
        """Squared Euclidean distances between the rows, [r, r], float64."""
        return squared_distances(self.gram)

    @cached_property
    def squared_norms(self) -> Tensor:
        """Squared lengths of the rows, [r], float64; from the Gram matrix for mixed rows or where it is known."""
        if self.mixing is not None or self._gram is not None:
            return self.gram.diagonal().clamp_min(0)
        found = squared_norms(self.values)
        _check_finite(found)
        return found

    def norms(self, norm: Literal["l2", "linf"] = "l2") -> Tensor:
        """The norm of each row, [r], float64."""
        if norm == "l2":
            return self.squared_norms.sqrt()
        if self.mixing is None:
            return torch.maximum(self.values.amax(1), -self.values.amin(1)).double()
        found = torch.zeros(len(self), dtype=torch.float64, device=self.values.device)
        for part in in_float64(self.values):
            found = torch.maximum(found, (self.mixing @ part).abs().amax(1))
        return found

    def inner_products(self, z: Tensor) -> Tensor:
        """⟨rowᵢ, Σ zⱼ rowⱼ⟩ for z [r] with Σ |zⱼ| ≤ 1, [r] float64.

        From the Gram matrix for mixed rows, where it is known, or where numbers leave the range of float32; otherwise
        from one pass as in `inner_products`, for float32 off by some 1e-7 of the product of the two lengths.
        """
        if self.mixing is None and self._gram is None and in_float32_range(self.squared_norms):
            return inner_products(self.values, lambda part, _: z.to(part.dtype) @ part)
        return self.gram @ z

    def mix(self, mixing: Tensor) -> PairwiseGeometry:
        """The rows `mixing` @ rows, for mixing [r', r]."""
        if self.mixing is None:
            return PairwiseGeometry(self.values, mixing, self)
        return PairwiseGeometry(self.values, mixing @ self.mixing, self._unmixed)


def _check_finite(squares: Tensor) -> None:
    finite = squares.isfinite()
    if not bool(finite.all()):
        places = (~finite).nonzero().flatten().tolist()
        raise BatchError(
            f"values: got NaN, infinity or numbers whose squares overflow in rows {places}, wanted finite ones; leave "
            "these clients out (a Server does)"
        )
