"""A small vision transformer."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from taster.errors import ModelError
from taster.utils.settings import validate_settings


class Block(nn.Module):
    """A pre-norm transformer block: attention among all patches, then an MLP, each with a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, patches, width] to features of the same shape."""
        n, places, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(n, places, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(n, places, width)
        x = x + self.dropout(self.out(mixed))
        out: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        return out


class VisionTransformer(nn.Module):
    """A transformer over patches with learned positions; the mean over patches is classified."""

    def __init__(
        self, channels: int, places: int, classes: int, patch: int, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, places, width))
        self.blocks = nn.Sequential(*[Block(width, heads, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, c, h, w] to logits [n, classes]."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        out: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return out


@validate_settings
def vit(
    shape: tuple[int, int, int],
    classes: int,
    *,
    patch: Annotated[int, Field(ge=1)] = 4,
    width: Annotated[int, Field(ge=1)] = 64,
    depth: Annotated[int, Field(ge=1)] = 4,
    heads: Annotated[int, Field(ge=1)] = 4,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """A vision transformer for small images, without a class token.

    Args:
        shape: channels, height and width of an image.
        classes: number of outputs.
        patch: side of a patch, which divides height and width.
        width: number of features per patch, a multiple of `heads`.
        depth: number of blocks.
        heads: number of attention heads.
        dropout: probability with which a feature is dropped in training.

    Raises:
        ModelError: if a patch does not divide the image, or `heads` the width.

    Source: Dosovitskiy et al. 2021; the mean over patches instead of a class token as in Beyer et al. 2022.
    """
    channels, height, breadth = shape
    if height % patch or breadth % patch:
        raise ModelError(f"got patch = {patch} for images of {height}x{breadth}, wanted one that divides both")
    if width % heads:
        raise ModelError(f"got width = {width} with heads = {heads}, wanted a multiple")
    places = (height // patch) * (breadth // patch)
    return VisionTransformer(channels, places, classes, patch, width, depth, heads, dropout)
