"""A rule of aggregation: rows mixed or chosen by where they lie, then merged coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from taster.errors import SmallBatchError
from taster.federated.aggregators.column_blocks import column_blocks
from taster.federated.aggregators.pairwise import PairwiseGeometry

RowWeights = Callable[[PairwiseGeometry, Tensor], Tensor]
"""From the rows' geometry and their weights [m] to what is made of the rows: a matrix [r, m] that mixes them, or whole
numbers [r], the places of those that are chosen."""

ColumnReduce = Callable[[Tensor], Tensor]
"""From a block of columns [r, c] to one number each, [c]."""


@dataclass(frozen=True)
class Aggregator:
    """From values [m, d] and weights [m] to one update [d], pure.

    What it holds beside the values is [m, m] and a block of columns, whatever d is. The order of the clients does not
    matter.

    Attributes:
        name: of the rule.
        mix: what is made of the rows; None leaves them.
        merge: how the rows that are left become one; None where `mix` leaves a single one.
        least: clients that the rule needs at least.
        before: steps taken first, each mixing the rows, [m, m].

    Raises (when called):
        SmallBatchError: for fewer clients than the rule needs.
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
                f"{self.name}: got {len(values)} clients' updates, wanted at least {self.min_clients} for the number of bad "
                "clients that it is to stand"
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
        """The same rule on rows that a step has mixed first."""
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
