"""An aggregation rule: rows are combined or selected by their geometry, then reduced column by column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from taster.errors import SmallBatchError
from taster.stats.column_blocks import column_blocks
from taster.stats.pairwise import PairwiseGeometry

RowWeights = Callable[[PairwiseGeometry, Tensor], Tensor]
"""Maps the rows' geometry and their weights [m] to a floating-point matrix [r, m] that combines the rows, or to whole
numbers [r], the indices of the rows that are selected."""

ColumnReduce = Callable[[Tensor], Tensor]
"""Maps a block of columns [r, c] to one number for each column, [c]."""


@dataclass(frozen=True)
class Aggregator:
    """A pure function from values [m, d] and weights [m] to one update [d].

    Temporaries are [m, m] and a block of columns, whatever d is. The result does not depend on the order of clients.

    Attributes:
        name: of the rule.
        row_weights: combines or selects rows; None keeps them.
        column_reduce: reduces the rows that remain to one; None where `row_weights` leaves a single row.
        min_clients: fewest clients that the rule is defined for.
        pre_aggregators: applied first, in order; each combines the rows, [m, m].

    Raises (when called):
        SmallBatchError: for fewer clients than `min_clients`.
    """

    name: str
    row_weights: RowWeights | None = None
    column_reduce: ColumnReduce | None = None
    min_clients: int = 1
    pre_aggregators: tuple[RowWeights, ...] = ()

    def __call__(self, values: Tensor, weights: Tensor) -> Tensor:
        """The aggregate, [d]."""
        if len(values) < self.min_clients:
            raise SmallBatchError(
                f"{self.name}: got {len(values)} clients' updates, wanted at least {self.min_clients}: with fewer it "
                "does not withstand num_byzantine clients"
            )
        rows = PairwiseGeometry(values)
        for step in self.pre_aggregators:
            rows = rows.mix(step(rows, weights))
        chosen = None if self.row_weights is None else self.row_weights(rows, weights)
        if chosen is None or not chosen.is_floating_point():
            return self._reduce_columns(rows, chosen)
        rows = rows.mix(chosen)
        if self.column_reduce is None:
            assert rows.mixing is not None
            return rows.mixing[0].to(values.dtype) @ values
        return self._reduce_columns(rows, None)

    def preceded_by(self, step: RowWeights) -> Aggregator:
        """The same rule with one more pre-aggregator, which is applied first."""
        return replace(self, pre_aggregators=(step, *self.pre_aggregators))

    def _reduce_columns(self, rows: PairwiseGeometry, chosen: Tensor | None) -> Tensor:
        values, mixing = rows.values, rows.mixing
        if mixing is not None:
            mixing = (mixing if chosen is None else mixing[chosen]).to(values.dtype)
        found = torch.empty(values.shape[1], dtype=values.dtype, device=values.device)
        for block in column_blocks(values):
            part = values[:, block]
            if mixing is not None:
                part = mixing @ part
            elif chosen is not None:
                part = part[chosen]
            found[block] = part[0] if self.column_reduce is None else self.column_reduce(part)
        return found
