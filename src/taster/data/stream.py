"""Batches of samples: an endless stream, and a sampler."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from taster.core.batch import Batch
from taster.data.rows import Rows, Samples
from taster.errors import DataError


@dataclass(frozen=True)
class Augment:
    """Random augmentation of training images.

    Attributes:
        crop: pixels of zero padding on each side before a random crop of the original size. 0: none.
        flip: whether to mirror each image with probability 1/2.
    """

    crop: int = 0
    flip: bool = False

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augments images [n, c, h, w] of any dtype, each at random, in one pass over the batch. Without crop and flip
        samples of any shape stay as they are."""
        if not (self.crop or self.flip):
            return x
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
    """An endless stream of batches, reshuffled in each epoch; an incomplete last batch is dropped.

    Args:
        samples: to draw from.
        batch_size: number of samples per batch.
        generator: of the order and the augmentation.
        augment: augmentation of each batch. Default: none.

    Raises:
        DataError: if there are fewer samples than the batch size.
    """

    def __init__(
        self, samples: Samples, batch_size: int, generator: torch.Generator, augment: Augment | None = None
    ) -> None:
        if not 0 < batch_size <= len(samples):
            raise DataError(f"got batches of {batch_size} from {len(samples)} samples, wanted 1 to {len(samples)}")
        self._samples = samples
        self._size = batch_size
        self._generator = generator
        self._augment = augment or Augment()
        self._order = torch.empty(0, dtype=torch.int64)
        self._position = 0

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return len(self._samples) // self._size

    def draw(self) -> Batch:
        """The next batch."""
        if self._position + self._size > len(self._order):
            self._order = torch.randperm(len(self._samples), generator=self._generator)
            self._position = 0
        index = self._order[self._position : self._position + self._size].to(self._samples.x.device)
        self._position += self._size
        drawn = self._samples.select(index)
        return as_batch(replace(drawn, x=self._augment(drawn.x, self._generator)))


class Sampler:
    """Draws batches of any size without replacement within a batch, such as an attacker's validation data."""

    def __init__(self, images: Samples, generator: torch.Generator) -> None:
        self._images = images
        self._generator = generator

    def __call__(self, count: int) -> Batch:
        """A batch of `count` samples.

        Raises:
            DataError: if there are fewer.
        """
        if not 0 < count <= len(self._images):
            raise DataError(f"got a draw of {count} from {len(self._images)} samples, wanted 1 to {len(self._images)}")
        index = torch.randperm(len(self._images), generator=self._generator)[:count]
        return as_batch(self._images.select(index.to(self._images.x.device)))


def as_batch(samples: Samples) -> Batch:
    """All samples as one batch: pixels as float32 in [0, 1], rows as they are."""
    if isinstance(samples, Rows):
        return Batch(samples.x, samples.y)
    return Batch(samples.x.to(torch.float32) / 255, samples.y)
