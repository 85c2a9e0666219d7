"""A fully connected network."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import nn

from taster.utils.settings import validate_settings


@validate_settings
def mlp(
    shape: tuple[int, ...],
    classes: int,
    *,
    hidden: list[Annotated[int, Field(ge=1)]] | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Sequential:
    """Flattened pixels, or the columns of a table, through fully connected layers with ReLU.

    Args:
        shape: channels, height and width of an image, or the number of columns.
        classes: number of outputs.
        hidden: widths of the hidden layers. Default: [64], the 784-64-10 of Yang et al. 2017 on MNIST.
        dropout: probability with which a hidden unit is dropped in training.

    Source: Yang et al. 2017, Section V (the architecture on MNIST).
    """
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(shape)
    for units in [64] if hidden is None else hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = units
    return nn.Sequential(*layers, nn.Linear(width, classes))
