"""Labelled images in memory: bytes and class labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taster.errors import DataError


@dataclass(frozen=True, eq=False)
class Images:
    """Images and labels.

    Attributes:
        x: uint8 [n, channels, height, width].
        y: int64 [n].

    Raises:
        DataError: for tensors of other shapes or types.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.dim() != 4:
            raise DataError(
                f"got images {list(self.x.shape)} of {self.x.dtype}, wanted uint8 [n, channels, height, width]"
            )
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise DataError(f"got labels {list(self.y.shape)} of {self.y.dtype}, wanted int64 [{len(self.x)}]")

    def __len__(self) -> int:
        return len(self.x)

    def select(self, index: Tensor) -> Images:
        """The images at these positions."""
        return Images(self.x[index], self.y[index])

    def to(self, device: torch.device | str) -> Images:
        """The images on another device."""
        return Images(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set for image classification.

    Attributes:
        name: as the user gave it.
        train: images that the roles are cut from.
        test: the data set's own test images. None: it has none.
        classes: number of classes.
        class_names: their names, for people; empty if they have none.

    Raises:
        DataError: for an empty part, labels outside of the classes, test images of another shape, or another number
            of names than of classes.
    """

    name: str
    train: Images
    test: Images | None
    classes: int
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.class_names and len(self.class_names) != self.classes:
            raise DataError(f"{self.name}: got {len(self.class_names)} class names, wanted {self.classes}")
        for part in (self.train, self.test):
            if part is None:
                continue
            if len(part) == 0:
                raise DataError(f"{self.name}: got no images")
            low, high = int(part.y.min()), int(part.y.max())
            if low < 0 or high >= self.classes:
                raise DataError(f"{self.name}: got labels from {low} to {high}, wanted 0 to {self.classes - 1}")
            if part.x.shape[1:] != self.train.x.shape[1:]:
                raise DataError(
                    f"{self.name}: got test images {list(part.x.shape[1:])}, wanted {list(self.train.x.shape[1:])}"
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width

    @property
    def value_range(self) -> tuple[float, float]:
        """The smallest and the largest value of a sample as a model gets it."""
        return 0.0, 1.0

    @property
    def vocabulary(self) -> None:
        """None: images are no token ids."""
        return None
