"""Features of handwriting that are fixed before any data are seen: slant taken out, and the directions of edges.

A certificate of an ensemble over partitions holds only if what is done to a sample before the division depends on that
sample alone. So each image is treated by itself, one at a time: operations on a whole batch may round otherwise when
other images are in it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, correlate1d
from torch import Tensor

Image = NDArray[np.float64]

_DIRECTIONS = np.arange(8) * 2 * np.pi / 8
_TURNS = np.stack([np.cos(_DIRECTIONS), np.sin(_DIRECTIONS)], 1)
_AT = np.arange(-2, 3)
_BELL = np.exp(-(_AT**2) / 2)
_SLOPE = _AT * _BELL
_CELLS = np.zeros((8, 28))
for _cell in range(8):
    _CELLS[_cell, 3 * _cell : 3 * _cell + 7] = 1 / 7


def deskewed(image: Image) -> Image:
    """An image with its centre of mass in the middle, and sheared so that it leans nowhere: columns and rows of the ink
    have no covariance."""
    total = max(float(image.sum()), 1e-6)
    down, along = (np.arange(size, dtype=np.float64) for size in image.shape)
    by_row, by_column = image.sum(1) / total, image.sum(0) / total
    row, column = float(by_row @ down), float(by_column @ along)
    spread = max(float(by_row @ (down - row) ** 2), 1e-6)
    lean = float((down - row) @ image @ (along - column)) / total / spread
    moves = np.array([[1.0, 0.0], [lean, 1.0]])
    middle = (np.array(image.shape) - 1) / 2
    found: Image = affine_transform(image, moves, np.array([row, column]) - moves @ middle, order=1)
    return found


def edges(image: Image) -> Image:
    """How strong edges of each of eight directions are in each of 8x8 cells of an image of 28x28, as a vector of length
    512 and of one norm: derivatives of a Gaussian, averaged over 7x7 pixels at every third one."""
    across = correlate1d(correlate1d(image, _SLOPE, 1, mode="constant"), _BELL, 0, mode="constant")
    down = correlate1d(correlate1d(image, _SLOPE, 0, mode="constant"), _BELL, 1, mode="constant")
    strength = np.maximum(np.tensordot(_TURNS, np.stack([across, down]), 1), 0)
    cells = np.sqrt(_CELLS @ strength @ _CELLS.T).ravel()
    found: Image = cells / max(float(np.linalg.norm(cells)), 1e-6) * np.sqrt(len(cells)) / 2
    return found


def averaged(image: Image) -> Image:
    """Pixels averaged to half the width and height, less 0.13, over 0.31, as a vector."""
    height, width = image.shape
    found: Image = (image.reshape(height // 2, 2, width // 2, 2).mean((1, 3)).ravel() - 0.13) / 0.31
    return found


def one_by_one(x: Tensor, *, deskew: bool, edge: bool) -> Tensor:
    """Features of images [n, 1, 28, 28] in bytes, float32 [n, d]: of each the bits depend on nothing but itself.

    Args:
        x: images.
        deskew: whether `deskewed`.
        edge: whether `edges`, otherwise `averaged`.
    """

    def of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        image = pixels.astype(np.float64) / 255
        image = deskewed(image) if deskew else image
        return (edges(image) if edge else averaged(image)).astype(np.float32)

    return torch.from_numpy(np.stack([of(pixels) for pixels in x[:, 0].numpy()]))
