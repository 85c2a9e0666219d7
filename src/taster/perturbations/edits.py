"""Changes of single values: of tokens in a text, or of columns in a row of a table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taster.errors import AttackError


@dataclass(frozen=True)
class Edits:
    """All samples that differ from a clean one in a few values at most, whatever becomes of these: an l0 ball.

    Attributes:
        most: how many values of a sample may change: k tokens, or k columns.
        low, high: the range of the data; the smallest and the largest id of tokens.

    Raises:
        AttackError: for a negative number of values, or no range.
    """

    most: int
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.most < 0:
            raise AttackError(f"edits: got {self.most}, wanted a number of values that is not negative")
        if not self.low < self.high:
            raise AttackError(f"range: got {self.low} to {self.high}, wanted low below high")

    def project(self, x: Tensor, clean: Tensor) -> Tensor:
        """Projects samples x [n, ...], of any dtype, to within the edits of clean samples [n, ...].

        Of the values that differ the first `most` stay, in the order of the sample, and are brought into the range;
        the others become the clean ones, as NaN does.
        """
        found = torch.where(x.isnan(), clean, x)
        changed = (found != clean).flatten(1)
        kept = (changed & (changed.cumsum(1) <= self.most)).reshape(clean.shape)
        return torch.where(kept, found.clamp(self.low, self.high).to(clean.dtype), clean)
