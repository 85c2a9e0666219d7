"""MobileNet-V2 in its usual form for 32x32 images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from taster.models.norms import Norm2d, norm2d
from taster.models.pixels import standardize
from taster.utils.settings import validate_settings

# Expansion, channels, blocks and stride of the first block (Sandler et al. 2018, Table 2). Of the halvings there, the
# second row's is left out, as the stem's is.
_ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM, _HEAD = 32, 1280


class InvertedResidual(nn.Module):
    """Widens by a 1x1 convolution, mixes neighbours channel by channel, and narrows again without an activation, around
    a shortcut where the shape stays (Sandler et al. 2018, Table 1)."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int, norm: Norm2d) -> None:
        super().__init__()
        width = expansion * inside
        bias = norm == "none"
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(inside, width, 1, bias=bias), norm2d(norm, width), nn.ReLU6(inplace=True)]
        layers += [
            nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=bias),
            norm2d(norm, width),
            nn.ReLU6(inplace=True),
            nn.Conv2d(width, outside, 1, bias=bias),
            norm2d(norm, outside),
        ]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        """[n, inside, h, w] to [n, outside, h / stride, w / stride]."""
        out: Tensor = self.conv(x)
        return x + out if self.shortcut else out


class MobileNetV2(nn.Module):
    """MobileNet-V2 with a stem and a second row of stride 1, as is usual for CIFAR."""

    def __init__(self, channels: int, classes: int, norm: Norm2d, dropout: float, pixels: nn.Module) -> None:
        super().__init__()
        bias = norm == "none"
        self.pixels = pixels
        self.stem = nn.Sequential(
            nn.Conv2d(channels, _STEM, 3, padding=1, bias=bias), norm2d(norm, _STEM), nn.ReLU6(inplace=True)
        )
        blocks: list[nn.Module] = []
        inside = _STEM
        for expansion, outside, count, stride in _ROWS:
            for number in range(count):
                blocks.append(InvertedResidual(inside, outside, 1 if number else stride, expansion, norm))
                inside = outside
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Conv2d(inside, _HEAD, 1, bias=bias), norm2d(norm, _HEAD), nn.ReLU6(inplace=True))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(_HEAD, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, c, h, w] to logits [n, classes]."""
        x = self.head(self.blocks(self.stem(self.pixels(x))))
        out: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return out


@validate_settings
def mobilenet_v2(
    shape: tuple[int, int, int],
    classes: int,
    *,
    norm: Norm2d = "batch",
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    pixel_mean: list[float] | None = None,
    pixel_std: list[float] | None = None,
) -> nn.Module:
    """MobileNet-V2 of width 1 whose stem and second row keep the resolution, which is halved three times in place of
    five.

    Args:
        shape: channels, height and width of an image.
        classes: number of outputs.
        norm: "batch", "group" or "none".
        dropout: probability with which a feature is dropped in training.
        pixel_mean: subtracted from each channel before the stem, in the range of the data.
        pixel_std: divides each channel after that.

    Raises:
        ModelError: if pixel_mean and pixel_std do not fit the channels.

    Source: Sandler et al. 2018, Tables 1 and 2.
    """
    return MobileNetV2(shape[0], classes, norm, dropout, standardize(shape[0], pixel_mean, pixel_std))
