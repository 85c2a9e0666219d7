"""ResNet-18 in its usual form for 32x32 images."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from taster.models.norms import norm2d
from taster.models.pixels import standardize
from taster.utils.settings import validate_settings


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, Fig. 2)."""

    def __init__(self, inside: int, outside: int, stride: int, norm: Literal["batch", "group"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm2d(norm, outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = norm2d(norm, outside)
        self.downsample: nn.Module | None = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride=stride, bias=False), norm2d(norm, outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[n, inside, h, w] to [n, outside, h / stride, w / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(x)) + shortcut)
        return out


class ResNet18(nn.Module):
    """ResNet-18 with torchvision's parameter names and a 3x3 stem, as is usual for CIFAR."""

    def __init__(
        self, channels: int, classes: int, norm: Literal["batch", "group"], max_pool: bool, pixels: nn.Module
    ) -> None:
        super().__init__()
        self.pixels = pixels
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = norm2d(norm, 64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if max_pool else nn.Identity()
        widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(BasicBlock(inside, outside, stride, norm), BasicBlock(outside, outside, 1, norm))
            for inside, outside, stride in widths
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, c, h, w] to logits [n, classes]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.pixels(x)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        out: Tensor = self.fc(self.avgpool(x).flatten(1))
        return out


@validate_settings
def resnet18(
    shape: tuple[int, int, int],
    classes: int,
    *,
    norm: Literal["batch", "group"] = "batch",
    max_pool: bool = False,
    pixel_mean: list[float] | None = None,
    pixel_std: list[float] | None = None,
) -> nn.Module:
    """ResNet-18 with a 3x3 stem; group norm as in Pang et al. 2021, Appendix A.1.

    Args:
        shape: channels, height and width of an image.
        classes: number of outputs.
        norm: "batch" or "group".
        max_pool: whether the 3x3 max-pooling of the ImageNet form follows the stem, which quarters the arithmetic.
        pixel_mean: subtracted from each channel before the stem, in the range of the data.
        pixel_std: divides each channel after that.

    Raises:
        ModelError: if pixel_mean and pixel_std do not fit the channels.

    Source: He et al. 2016; used by Pang et al. 2021 and Zhu et al. 2023.
    """
    return ResNet18(shape[0], classes, norm, max_pool, standardize(shape[0], pixel_mean, pixel_std))
