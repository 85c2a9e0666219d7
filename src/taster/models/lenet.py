"""LeNet: two convolutions, two fully connected layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from taster.errors import ModelError
from taster.utils.settings import validate_settings


@validate_settings
def lenet(
    shape: tuple[int, int, int],
    classes: int,
    *,
    channels: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)] = [20, 50],  # noqa: B006 (never written to)
    hidden: Annotated[int, Field(ge=1)] = 500,
    activation: Literal["relu", "tanh"] = "relu",
) -> nn.Sequential:
    """Two 5x5 convolutions, each followed by max-pooling, a hidden layer and a linear one; no normalization.

    Args:
        shape: channels, height and width of an image; at least 16x16.
        classes: number of outputs.
        channels: of the two convolutions. [20, 50] with 500 hidden units is the form in the examples of MXNet, the
            library of Yang et al. 2017.
        hidden: width of the hidden layer.
        activation: "relu", or "tanh" as in 1998.

    Raises:
        ModelError: if the images are smaller.

    Source: LeCun et al. 1998; the target of Yang et al. 2017, Section IV.A, on CIFAR-10.
    """
    if min(shape[1:]) < 16:
        raise ModelError(f"got images of {shape[1]}x{shape[2]}, wanted at least 16x16 for two 5x5 convolutions")
    kind = nn.ReLU if activation == "relu" else nn.Tanh
    height, width = (((side - 4) // 2 - 4) // 2 for side in shape[1:])
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], channels[0], 5),
            act1=kind(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(channels[0], channels[1], 5),
            act2=kind(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(channels[1] * height * width, hidden),
            act3=kind(),
            fc2=nn.Linear(hidden, classes),
        )
    )
