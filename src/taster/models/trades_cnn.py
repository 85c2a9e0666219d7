"""The small network of TRADES: four convolutions, three linear layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from taster.errors import ModelError
from taster.utils.settings import validate_settings

_HIDDEN = 200


class TradesCNN(nn.Module):
    """Two pairs of 3x3 convolutions without padding, each followed by max-pooling; two hidden layers of 200, and a
    linear one that starts at zero. The parameters are called as in the published code."""

    def __init__(self, shape: tuple[int, int, int], classes: int, dropout: float) -> None:
        super().__init__()
        channels, *sides = shape
        height, width = (((side - 4) // 2 - 4) // 2 for side in sides)
        self.feature_extractor = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 32, 3),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(32, 32, 3),
                relu2=nn.ReLU(),
                maxpool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(32, 64, 3),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(64, 64, 3),
                relu4=nn.ReLU(),
                maxpool2=nn.MaxPool2d(2),
            )
        )
        last = nn.Linear(_HIDDEN, classes)
        self.classifier = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(64 * height * width, _HIDDEN),
                relu1=nn.ReLU(),
                drop=nn.Dropout(dropout),
                fc2=nn.Linear(_HIDDEN, _HIDDEN),
                relu2=nn.ReLU(),
                fc3=last,
            )
        )
        for module in self.feature_extractor:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, c, h, w] to logits [n, classes]."""
        out: Tensor = self.classifier(self.feature_extractor(x).flatten(1))
        return out


@validate_settings
def trades_cnn(
    shape: tuple[int, int, int],
    classes: int,
    *,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
) -> nn.Module:
    """The SmallCNN of TRADES: four convolutions and three linear layers, no normalization.

    It is published for 1x28x28, where it has 312,202 parameters; on images of another size the first linear layer is
    another. `small_cnn` is taster's own, and smaller.

    Args:
        shape: channels, height and width of an image; at least 16x16.
        classes: number of outputs.
        dropout: probability with which a unit of the first hidden layer is dropped in training.

    Raises:
        ModelError: if the images are smaller.

    Source: Zhang et al. 2019 (TRADES), the network of its published code for MNIST; "SmallCNN" in Zhu et al. 2023,
        Table 4.
    """
    if min(shape[1:]) < 16:
        raise ModelError(
            f"trades_cnn: got images of {shape[1]}x{shape[2]}, wanted at least 16x16 (four 3x3 convolutions without "
            "padding, and two poolings)"
        )
    return TradesCNN(shape, classes, dropout)
