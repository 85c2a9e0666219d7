"""The choice of normalization layer that the convolutional models share."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

Norm2d = Literal["batch", "group", "none"]


def norm2d(kind: Norm2d, channels: int) -> nn.Module:
    """Batch norm; group norm in up to 32 groups (Wu and He 2018; Pang et al. 2021, Appendix A.1); or the identity."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(32, channels), channels)
    return nn.Identity()
