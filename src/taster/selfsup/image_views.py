"""Random views of images: crops, flips, colours, grey and blur, each image by draws of its own, differentiable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from taster.data.image_form import LUMA, greyed
from taster.utils.setting_types import Quantile
from taster.utils.settings import settings_group

_YIQ = torch.tensor([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)], dtype=torch.float64)
_ASPECT = (3 / 4, 4 / 3)
_BLUR = (0.1, 2.0)


@settings_group
class ViewSettings:
    """How a random view of an image is drawn.

    Attributes:
        crop_area: least share of the image's area in a crop, which is scaled back to the image's size. 1: no crop.
        mirror: whether a view is mirrored with probability 1/2.
        jitter: most that brightness, contrast and saturation change, as factors from 1 − jitter to 1 + jitter.
        hue: most that the hue turns either way, as a share of the circle.
        jitter_share: probability that a view's colours change at all.
        grey_share: probability that a view is grey.
        blur_share: probability that a view is blurred: usually 0 for images of 32 x 32 pixels, and 0.5 for large ones.
    """

    crop_area: Annotated[float, Field(gt=0, le=1)] = 0.2
    mirror: bool = True
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    jitter_share: Quantile = 0.8
    grey_share: Quantile = 0.2
    blur_share: Quantile = 0.0


@dataclass(frozen=True)
class ImageViews:
    """Draws random views.

    Crops have a share of the area drawn uniformly and a ratio of width to height from 3/4 to 4/3, drawn uniformly in
    its logarithm and cut where it does not fit. Colours change in the order brightness, contrast, saturation, hue, and
    are cut to 0 to 1 at the end; the hue is turned in the YIQ space. Images of one channel keep to brightness and
    contrast. A blur is Gaussian with a standard deviation from 0.1 to 2 pixels, over a tenth of the image's height.

    Attributes:
        settings: see `ViewSettings`.

    Source: Chen et al. 2020 (SimCLR), Section 3 and Appendix A, whose colour changes come in a random order.
    """

    settings: ViewSettings

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """One view of each image, of the same shape, differentiable in the images.

        Args:
            x: images [n, 1 or 3, h, w] within 0 to 1.
            generator: everything is drawn from it, whatever the settings are.
        """
        drawn = torch.rand(13, len(x), generator=generator, device=generator.device).to(x)
        x = self._cropped(x, drawn[:5])
        x = self._recoloured(x, drawn[5:11])
        return self._blurred(x, drawn[11:]).clamp(0, 1)

    def _cropped(self, x: Tensor, drawn: Tensor) -> Tensor:
        mirrored = (drawn[4] < 0.5) & self.settings.mirror
        if self.settings.crop_area == 1:
            return torch.where(mirrored[:, None, None, None], x.flip(3), x)
        area = self.settings.crop_area + (1 - self.settings.crop_area) * drawn[0]
        low, high = (math.log(ratio) for ratio in _ASPECT)
        ratio = (low + (high - low) * drawn[1]).exp()
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        # From the crop's pixels to the image's, in units of half the image.
        rows = x.new_zeros(len(x), 2, 3)
        rows[:, 0, 0] = torch.where(mirrored, -width, width)
        rows[:, 1, 1] = height
        rows[:, 0, 2] = (1 - width) * (2 * drawn[2] - 1)
        rows[:, 1, 2] = (1 - height) * (2 * drawn[3] - 1)
        grid = affine_grid(rows, list(x.shape), align_corners=False)
        return grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _recoloured(self, x: Tensor, drawn: Tensor) -> Tensor:
        changed = drawn[0] < self.settings.jitter_share
        brightness, contrast, saturation = (
            torch.where(changed, 1 + self.settings.jitter * (2 * some - 1), 1) for some in drawn[1:4]
        )
        angle = torch.where(changed, 2 * math.pi * self.settings.hue * (2 * drawn[4] - 1), 0)
        grey = drawn[5] < self.settings.grey_share
        colours = _colour_matrix(saturation, angle, grey) if x.shape[1] == 3 else x.new_ones(len(x), 1, 1)
        bright = brightness[:, None, None, None] * x
        mean = greyed(bright).mean((1, 2, 3))
        # Each step is linear in a pixel's colour and leaves grey as it is, so that they are one matrix and a shift.
        turned = torch.einsum("nij,njhw->nihw", contrast[:, None, None] * colours, bright)
        return turned + ((1 - contrast) * mean)[:, None, None, None]

    def _blurred(self, x: Tensor, drawn: Tensor) -> Tensor:
        if not self.settings.blur_share:
            return x
        n, channels, height, width = x.shape
        reach = min(max(1, height // 20), height - 1, width - 1)
        if not reach:
            return x
        sigma = _BLUR[0] + (_BLUR[1] - _BLUR[0]) * drawn[1]
        places = torch.arange(-reach, reach + 1, device=x.device).to(x)
        kernel = torch.softmax(-(places**2) / (2 * sigma[:, None] ** 2), 1)
        kernel = torch.where((drawn[0] < self.settings.blur_share)[:, None], kernel, (places == 0).to(x))
        rows = kernel.repeat_interleave(channels, 0)[:, None, None, :]
        flat = pad(x, [reach] * 4, mode="reflect").reshape(1, n * channels, height + 2 * reach, width + 2 * reach)
        flat = conv2d(conv2d(flat, rows, groups=n * channels), rows.transpose(2, 3), groups=n * channels)
        return flat.reshape(x.shape)


def _colour_matrix(saturation: Tensor, angle: Tensor, grey: Tensor) -> Tensor:
    """What saturation, a turn of the hue and greying make of a colour, [n, 3, 3]."""
    to_yiq = _YIQ.to(saturation.device)
    luma = to_yiq[0].expand(3, 3).to(saturation)
    share = saturation[:, None, None]
    saturated = share * torch.eye(3, dtype=share.dtype, device=share.device) + (1 - share) * luma
    turn = torch.zeros_like(saturated)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    turned = to_yiq.inverse().to(saturation) @ turn @ to_yiq.to(saturation)
    return torch.where(grey[:, None, None], luma @ turned @ saturated, turned @ saturated)
