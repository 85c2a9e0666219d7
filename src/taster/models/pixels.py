"""Standardization of pixels inside of the model, so that attacks and their bounds are in the range of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taster.errors import ModelError


class Standardize(nn.Module):
    """(x - mean) / std for each channel. Both are constants: not parameters, and not in the state dict."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Standardizes images [n, c, h, w]."""
        return (x - self.mean) / self.std


def standardize(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    """A `Standardize` layer, or the identity if neither mean nor std is given.

    Raises:
        ModelError: if only one is given, there is not one value per channel, or a std is not positive.
    """
    if mean is None and std is None:
        return nn.Identity()
    if mean is None or std is None or not len(mean) == len(std) == channels or min(std) <= 0:
        raise ModelError(
            f"got pixel_mean = {mean} and pixel_std = {std} for images of {channels} channels, "
            "wanted one number per channel for both, and every pixel_std above 0"
        )
    return Standardize(mean, std)
