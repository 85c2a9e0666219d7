"""The form that images are brought into as they are decoded: one size, gray or RGB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from taster.errors import DataError

Color = Literal["gray", "rgb"]
"""One channel or three."""

_MAX_SIDE = 4096
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, of ITU-R BT.601, as Pillow has them."""


@dataclass(frozen=True)
class ImageForm:
    """What images are converted to; None leaves them as they are.

    Attributes:
        size: height and width in pixels; bilinear with antialiasing, the aspect ratio is not kept.
        color: "gray" or "rgb".

    Raises:
        DataError: for a size out of range.
    """

    size: tuple[int, int] | None = None
    color: Color | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not all(1 <= side <= _MAX_SIDE for side in self.size):
            raise DataError(f"resize: got {list(self.size)}, wanted a height and a width from 1 to {_MAX_SIDE} pixels")

    def apply(self, image: Tensor, where: str) -> Tensor:
        """An image in this form.

        Args:
            image: uint8 [channels, height, width].
            where: begins the error message.

        Returns:
            uint8 [channels, height, width].

        Raises:
            DataError: for a color of an image that has neither one channel nor three.
        """
        if self.color is not None:
            image = _recolored(image, self.color, where)
        if self.size is not None and tuple(image.shape[1:]) != self.size:
            scaled = interpolate(image[None].float(), self.size, mode="bilinear", antialias=True)[0]
            image = scaled.round().clamp(0, 255).to(torch.uint8)
        return image


def _recolored(image: Tensor, color: Color, where: str) -> Tensor:
    channels = len(image)
    if channels not in (1, 3):
        raise DataError(f"{where}: got an image of {channels} channels and color = {color!r}, wanted 1 or 3 of them")
    if color == "rgb":
        return image if channels == 3 else image.expand(3, -1, -1).contiguous()
    if channels == 1:
        return image
    gray: Tensor = torch.tensordot(torch.tensor(LUMA), image.float(), dims=1)
    return gray.round().clamp(0, 255).to(torch.uint8)[None]


def greyed(x: Tensor) -> Tensor:
    """Images without colour, of the same shape, differentiable.

    Args:
        x: images [n, 1 or 3, h, w] of floating point.
    """
    if x.shape[1] == 1:
        return x
    return torch.einsum("nchw,c->nhw", x, x.new_tensor(LUMA)).unsqueeze(1).expand_as(x).contiguous()
