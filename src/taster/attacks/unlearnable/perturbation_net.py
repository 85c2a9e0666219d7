"""Nets that make perturbations within a ball: an encoder and a decoder with connections between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from taster.errors import AttackError
from taster.perturbations.pgd import LpBall
from taster.utils.seeds import drawing_from
from taster.utils.setting_types import PositiveCount, PositiveFloat
from taster.utils.settings import settings_group


@settings_group
class PerturbationNetSettings:
    """A net that makes perturbations, and its training.

    Attributes:
        width: channels of its first layer; the others have as many or twice as many.
        net_learning_rate: of Adam, which trains it.
    """

    width: PositiveCount = 16
    net_learning_rate: PositiveFloat = 1e-3


class PerturbationNet(nn.Module):
    """Maps images to perturbations of their shape within a ball around 0.

    Two convolutions halve the resolution, two bring it back, and each level of the way down is handed to the way up.
    What comes out of the last layer, v, becomes ε tanh v ("linf") or ε v / √(1 + ‖v‖²) ("l2").

    Args:
        channels: of an image.
        width: channels of the first layer.
        ball: the budget.
    """

    def __init__(self, channels: int, width: int, ball: LpBall) -> None:
        super().__init__()
        self._ball = ball
        self.top = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.bottom = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.up = nn.Conv2d(4 * width, width, 3, padding=1)
        self.last = nn.Conv2d(2 * width, channels, 3, padding=1)
        self.relu = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, c, h, w] to perturbations [n, c, h, w]."""
        top = self.relu(self.top(x))
        down = self.relu(self.down(top))
        bottom = self.relu(self.bottom(down))
        up = self.relu(self.up(torch.cat([_resized(bottom, down), down], 1)))
        raw: Tensor = self.last(torch.cat([_resized(up, top), top], 1))
        if self._ball.norm == "linf":
            return self._ball.epsilon * raw.tanh()
        squares = raw.flatten(1).square().sum(1)
        return self._ball.epsilon * raw / (1 + squares).sqrt()[:, None, None, None]


def perturbation_net(x: Tensor, width: int, ball: LpBall, generator: torch.Generator, name: str) -> PerturbationNet:
    """A net for images like these, with random weights.

    Args:
        x: images, [n, c, h, w].
        width: channels of its first layer.
        ball: the budget.
        generator: of the weights. Torch's global generators are not advanced.
        name: of the attack.

    Raises:
        AttackError: for samples that are no images.
    """
    if x.dim() != 4:
        raise AttackError(f"{name}: got samples {list(x.shape[1:])}, wanted images [channels, height, width]")
    with drawing_from(generator, x.device):
        return PerturbationNet(x.shape[1], width, ball).to(x)


def perturbations(net: PerturbationNet, x: Tensor, chunk: int = 1000) -> Tensor:
    """What a net makes of many images [n, c, h, w], in chunks and without a graph."""
    with torch.no_grad():
        return torch.cat([net(part) for part in torch.split(x, chunk)])


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return interpolate(x, size=like.shape[2:], mode="nearest")
