"""Ordered batches, epoch after epoch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from taster.core.types import Batch
from taster.data.images import Images
from taster.errors import DataError


@dataclass(frozen=True)
class Augment:
    """Random changes to training images.

    Attributes:
        crop: pixels of zero padding on each side before cropping back to size at a random place; 0 for none.
        flip: mirrors every other image, at random.
    """

    crop: int = 0
    flip: bool = False

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Images [n, c, h, w] of any dtype, each changed in its own way, the whole batch at once."""
        n, _, height, width = x.shape
        if self.crop:
            padded = pad(x, [self.crop] * 4)
            shift = torch.randint(0, 2 * self.crop + 1, (2, n, 1), generator=generator).to(x.device)
            rows = shift[0] + torch.arange(height, device=x.device)
            columns = shift[1] + torch.arange(width, device=x.device)
            sample = torch.arange(n, device=x.device)[:, None, None]
            x = padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
        if self.flip:
            mirrored = (torch.rand(n, 1, 1, 1, generator=generator) < 0.5).to(x.device)
            x = torch.where(mirrored, x.flip(3), x)
        return x


class Stream:
    """An endless stream of batches: each epoch a new order, no sample twice in an epoch, the odd rest left out.

    Args:
        images: to draw from.
        batch_size: samples a batch.
        generator: decides order and augmentation.
        augment: applied to each batch.

    Raises:
        DataError: when there are fewer images than one batch takes.
    """

    def __init__(
        self, images: Images, batch_size: int, generator: torch.Generator, augment: Augment | None = None
    ) -> None:
        if not 0 < batch_size <= len(images):
            raise DataError(f"got batches of {batch_size} from {len(images)} samples, wanted 1 to {len(images)}")
        self._images = images
        self._size = batch_size
        self._generator = generator
        self._augment = augment or Augment()
        self._order = torch.empty(0, dtype=torch.int64)
        self._position = 0

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches in one epoch."""
        return len(self._images) // self._size

    def draw(self) -> Batch:
        """The next batch."""
        if self._position + self._size > len(self._order):
            self._order = torch.randperm(len(self._images), generator=self._generator)
            self._position = 0
        index = self._order[self._position : self._position + self._size].to(self._images.x.device)
        self._position += self._size
        drawn = self._images.select(index)
        return as_batch(Images(self._augment(drawn.x, self._generator), drawn.y))


class Sampler:
    """Draws batches of any size without replacement within a batch: an attacker's validation data."""

    def __init__(self, images: Images, generator: torch.Generator) -> None:
        self._images = images
        self._generator = generator

    def __call__(self, count: int) -> Batch:
        """So many samples.

        Raises:
            DataError: when there are not as many.
        """
        if not 0 < count <= len(self._images):
            raise DataError(f"got a draw of {count} from {len(self._images)} samples, wanted 1 to {len(self._images)}")
        index = torch.randperm(len(self._images), generator=self._generator)[:count]
        return as_batch(self._images.select(index.to(self._images.x.device)))


def as_batch(images: Images) -> Batch:
    """All of them as one batch, pixels as float32 in [0, 1]."""
    return Batch(images.x.to(torch.float32) / 255, images.y)
