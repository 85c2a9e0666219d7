"""Wide residual networks for 32x32 images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from taster.errors import ModelError
from taster.models.norms import Norm2d, norm2d
from taster.models.pixels import standardize
from taster.utils.settings import validate_settings


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after a normalization and an activation, around a shortcut.

    Where the shape changes the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, inside: int, outside: int, stride: int, norm: Norm2d, dropout: float) -> None:
        super().__init__()
        bias = norm == "none"
        self.norm1 = norm2d(norm, inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=bias)
        self.norm2 = norm2d(norm, outside)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=bias)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module | None = None
        if stride != 1 or inside != outside:
            self.shortcut = nn.Conv2d(inside, outside, 1, stride=stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inside, h, w] to [n, outside, h / stride, w / stride]."""
        active = self.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(self.dropout(self.relu(self.norm2(self.conv1(active))))) + kept
        return out


class WideResNet(nn.Module):
    """A stem of 16 channels, three groups of blocks of 16 k, 32 k and 64 k channels, average pooling, one linear layer
    (Zagoruyko and Komodakis 2016, Table 1)."""

    def __init__(
        self, channels: int, classes: int, depth: int, width: int, norm: Norm2d, dropout: float, pixels: nn.Module
    ) -> None:
        super().__init__()
        self.pixels = pixels
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=norm == "none")
        groups: list[nn.Module] = []
        inside = 16
        for outside, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            blocks = []
            for number in range((depth - 4) // 6):
                blocks.append(WideBlock(inside, outside, 1 if number else stride, norm, dropout))
                inside = outside
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.Sequential(*groups)
        self.norm = norm2d(norm, inside)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, c, h, w] to logits [n, classes]."""
        x = self.relu(self.norm(self.groups(self.stem(self.pixels(x)))))
        out: Tensor = self.fc(self.avgpool(x).flatten(1))
        return out


@validate_settings
def wide_resnet(
    shape: tuple[int, int, int],
    classes: int,
    *,
    depth: Annotated[int, Field(ge=10)] = 16,
    width: Annotated[int, Field(ge=1)] = 1,
    norm: Norm2d = "batch",
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    pixel_mean: list[float] | None = None,
    pixel_std: list[float] | None = None,
) -> nn.Module:
    """WRN-d-k, by default WRN-16-1.

    Args:
        shape: channels, height and width of an image.
        classes: number of outputs.
        depth: d, layers with weights: 6 n + 4, n blocks in each of three groups.
        width: k, the factor of the channels.
        norm: "batch", "group" or "none".
        dropout: probability with which a value between the convolutions of a block is dropped in training.
        pixel_mean: subtracted from each channel before the stem, in the range of the data.
        pixel_std: divides each channel after that.

    Raises:
        ModelError: for a depth that is not 6 n + 4, and if pixel_mean and pixel_std do not fit the channels.

    Source: Zagoruyko and Komodakis 2016.
    """
    if (depth - 4) % 6:
        raise ModelError(f"wide_resnet: got depth {depth}, wanted 6 n + 4, such as 10, 16, 22, 28 or 40")
    return WideResNet(shape[0], classes, depth, width, norm, dropout, standardize(shape[0], pixel_mean, pixel_std))
