"""What all kinds of tables have in common, whatever their rows hold: labels with names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taster.core.batch import Batch
from taster.errors import DataError


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Rows with a label each.

    Attributes:
        name: as the user gave it.
        x: [n, d].
        y: int64 [n].
        class_names: the labels as the file has them; that of class c is at c.

    Raises:
        DataError: for labels of another shape or type, none, and those without a name.
    """

    name: str
    x: Tensor
    y: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise DataError(
                f"{self.name}: got labels {list(self.y.shape)} of {self.y.dtype}, wanted int64 [{len(self.x)}]"
            )
        if len(self.y) == 0 or int(self.y.min()) < 0 or int(self.y.max()) >= self.classes:
            raise DataError(f"{self.name}: got labels that are no places in {self.classes} class names")

    def __len__(self) -> int:
        return len(self.y)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int]:
        """Number of values of a row."""
        return (self.x.shape[1],)

    def batch(self, rows: Tensor) -> Batch:
        """The samples of these rows, as a batch."""
        return Batch(self.x[rows], self.y[rows])
