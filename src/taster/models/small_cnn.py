"""A convolutional network small enough for seconds on two cores."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from taster.models.norms import Norm2d, norm2d
from taster.utils.settings import validate_settings


class SmallCNN(nn.Module):
    """Three 3x3 convolutions, each normalized; the second and third halve the resolution; then average and classify."""

    def __init__(self, channels: int, classes: int, width: int, grid: int, norm: Norm2d, dropout: float) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=bias)
        self.norm1 = norm2d(norm, width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias)
        self.norm2 = norm2d(norm, 2 * width)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1, bias=bias)
        self.norm3 = norm2d(norm, 2 * width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2 * width * grid * grid, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, c, h, w] to logits [n, classes]."""
        x = self.relu(self.norm1(self.conv1(x)))
        x = self.relu(self.norm2(self.conv2(x)))
        x = self.relu(self.norm3(self.conv3(x)))
        out: Tensor = self.fc(self.dropout(self.pool(x).flatten(1)))
        return out


@validate_settings
def small_cnn(
    shape: tuple[int, int, int],
    classes: int,
    *,
    width: Annotated[int, Field(ge=1)] = 32,
    grid: Annotated[int, Field(ge=1)] = 1,
    norm: Norm2d = "batch",
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """Three convolutions of `width`, 2 `width` and 2 `width` channels, average pooling, one linear layer.

    Args:
        shape: channels, height and width of an image.
        classes: number of outputs.
        width: channels of the first convolution.
        grid: output size of average pooling, grid x grid. 1 pools over the whole image, which suits 8x8.
        norm: "batch", "group" or "none".
        dropout: probability with which a feature is dropped in training.

    Source: taster's own, for experiments that take seconds.
    """
    return SmallCNN(shape[0], classes, width, grid, norm, dropout)
