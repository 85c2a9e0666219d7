"""Random shifts and flips of images that gradients pass through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from taster.errors import AttackError


@dataclass(frozen=True)
class RandomShift:
    """Shifts each image by a random part of a number of pixels, with zeros for what comes in, and mirrors it at random.

    Values between pixels are interpolated linearly. By whole pixels it is what a random crop after zero padding does.

    Attributes:
        shift: the most that an image is shifted along each axis, in pixels.
        flip: whether to mirror each image with probability 1/2.
    """

    shift: float = 0.0
    flip: bool = False

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Images [n, c, h, w] of floating point, each changed by a draw of its own; differentiable.

        Raises:
            AttackError: for samples that are no images.
        """
        if not self.shift and not self.flip:
            return x
        if x.dim() != 4:
            raise AttackError(
                f"shift, flip: got samples of shape {list(x.shape[1:])}, wanted images [channels, height, width]; set "
                "both to 0"
            )
        n = len(x)
        moves = self.shift * (2 * torch.rand(n, 2, generator=generator, device=generator.device) - 1)
        mirrored = torch.rand(n, generator=generator, device=generator.device) < 0.5
        moves, mirrored = moves.to(x), mirrored.to(x.device) & self.flip
        return shifted(x, moves[:, 0], moves[:, 1], mirrored)


def shifted(x: Tensor, right: Tensor, down: Tensor, mirrored: Tensor) -> Tensor:
    """Images moved by numbers of pixels, then mirrored.

    Args:
        x: [n, c, h, w].
        right, down: [n], in pixels; may be negative.
        mirrored: bool [n].
    """
    n, _, height, width = x.shape
    rows = x.new_zeros(n, 2, 3)
    rows[:, 0, 0] = torch.where(mirrored, -1.0, 1.0).to(x)
    rows[:, 1, 1] = 1
    # The grid says where each pixel comes from, in units of half the image.
    rows[:, 0, 2] = -2 * right / width
    rows[:, 1, 2] = -2 * down / height
    grid = affine_grid(rows, list(x.shape), align_corners=False)
    return grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
