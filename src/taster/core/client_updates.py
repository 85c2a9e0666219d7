"""The updates of one federated round."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from taster.errors import BatchError


@dataclass(frozen=True, eq=False)
class ClientUpdates:
    """The updates of one federated round: a flat vector for each client.

    Attributes:
        values: [m, d], one row a client.
        weights: [m], the weight that each client claims.
        usable: [m], the rows that the receiver has accepted, of which the first screen drops the others; None accepts
            those that are finite.
        rejection: why no row is usable, where none is.
    """

    values: Tensor
    weights: Tensor
    usable: Tensor | None = field(default=None, kw_only=True)
    rejection: str = field(default="the clients' updates hold NaN or infinity", kw_only=True)

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or self.weights.shape != self.values.shape[:1] or len(self.values) == 0:
            raise BatchError(
                f"got values {list(self.values.shape)} and weights {list(self.weights.shape)}, "
                "wanted [m, d] and [m] with at least one client"
            )

    def __len__(self) -> int:
        return len(self.values)

    def select(self, keep: Tensor) -> ClientUpdates:
        """The updates of the clients selected by a boolean mask [m] or an index."""
        usable = None if self.usable is None else self.usable[keep]
        return ClientUpdates(self.values[keep], self.weights[keep], usable=usable, rejection=self.rejection)
