"""VGG-11 with batch norm in its usual form for 32x32 images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from taster.errors import ModelError
from taster.models.norms import Norm2d, norm2d
from taster.models.pixels import standardize
from taster.utils.settings import validate_settings

# Channels of each convolution; "pool" halves the resolution (Simonyan and Zisserman 2015, Table 1, column A).
_LAYERS: tuple[int | str, ...] = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


class VGG11(nn.Module):
    """VGG-11 with torchvision's names for the convolutions and a single linear classifier, as is usual for CIFAR."""

    def __init__(self, channels: int, classes: int, norm: Norm2d, dropout: float, pixels: nn.Module) -> None:
        super().__init__()
        self.pixels = pixels
        layers: list[nn.Module] = []
        for width in _LAYERS:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if norm != "none":
                layers.append(norm2d(norm, width))
            layers.append(nn.ReLU(inplace=True))
            channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, c, h, w] to logits [n, classes]."""
        out: Tensor = self.classifier(self.dropout(self.features(self.pixels(x)).mean((2, 3))))
        return out


@validate_settings
def vgg11(
    shape: tuple[int, int, int],
    classes: int,
    *,
    norm: Norm2d = "batch",
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    pixel_mean: list[float] | None = None,
    pixel_std: list[float] | None = None,
) -> nn.Module:
    """VGG-11 for images of at least 32x32, with a single linear layer after average pooling.

    Args:
        shape: channels, height and width of an image.
        classes: number of outputs.
        norm: "batch", "group" or "none".
        dropout: probability with which a feature is dropped in training.
        pixel_mean: subtracted from each channel before the first layer, in the range of the data.
        pixel_std: divides each channel after that.

    Raises:
        ModelError: if the images are smaller than 32x32, which is too small for five poolings, or pixel_mean and
            pixel_std do not fit the channels.

    Source: Simonyan and Zisserman 2015, column A.
    """
    if min(shape[1:]) < 32:
        raise ModelError(
            f"vgg11: got images of {shape[1]}x{shape[2]}, wanted at least 32x32 (it halves them five times)"
        )
    return VGG11(shape[0], classes, norm, dropout, standardize(shape[0], pixel_mean, pixel_std))
