"""Self-supervised training of a net, step by step or as a whole."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from taster.core.epochs import Epochs
from taster.errors import ModelError
from taster.selfsup.image_views import ImageViews, ViewSettings
from taster.selfsup.pretext_nets import Encoder, MakePretextNet, PretextNet
from taster.utils.setting_types import Count, NonNegative, PositiveCount, PositiveFloat
from taster.utils.settings import settings_group


@settings_group
class PretrainingSettings:
    """Self-supervised training by stochastic gradient descent, with a learning rate that falls by a cosine to 0.

    Attributes:
        pretraining_epochs: passes over the images. 0 leaves the net's first weights.
        pretraining_batch: images of a step, at most.
        pretraining_rate: learning rate of the first step.
        pretraining_momentum: of SGD.
        pretraining_decay: added to the gradient, times the weights.
        hidden: width of the projection's hidden layer.
        projection: width of its output.
    """

    pretraining_epochs: Count = 100
    pretraining_batch: Annotated[int, Field(ge=2, le=10**6)] = 256
    pretraining_rate: PositiveFloat = 0.06
    pretraining_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    pretraining_decay: NonNegative = 5e-4
    hidden: PositiveCount = 128
    projection: PositiveCount = 64


class Pretraining:
    """A net in self-supervised training.

    Args:
        make: adds the heads to the net.
        net: is trained in its place.
        example: of the images, [1, ...], to see how many features the net has.
        settings: see `PretrainingSettings`.
        views: how views are drawn.
        steps: of the whole training; later ones have the learning rate of the last that is above 0.
        generator: of views.

    Attributes:
        model: the net with its heads.

    Raises:
        ModelError: for a net whose features cannot be told, or are frozen.
    """

    def __init__(
        self,
        make: MakePretextNet,
        net: nn.Module,
        example: Tensor,
        settings: PretrainingSettings,
        views: ViewSettings,
        steps: int,
        generator: torch.Generator,
    ) -> None:
        self._settings, self._steps, self._generator = settings, steps, generator
        self._done = 0
        self.views = ImageViews(views)
        self.model: PretextNet = make(net, _features(net, example)).to(example.device)
        if not self.model.encoder.trained:
            raise ModelError("got a net whose features are frozen, wanted one to train (offline.mode is no transfer)")
        self.model.train()
        self._optimizer = torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=settings.pretraining_rate,
            momentum=settings.pretraining_momentum,
            weight_decay=settings.pretraining_decay,
        )

    def step(self, x: Tensor) -> float:
        """One step on two views of each image; returns the loss before it.

        Args:
            x: images [n, 1 or 3, h, w] within 0 to 1, at least two.

        Raises:
            ModelError: for a loss that is not finite.
        """
        progress = min(self._done, self._steps - 1) / self._steps
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.pretraining_rate * (1 + math.cos(math.pi * progress)) / 2
        self.model.train()
        with torch.enable_grad():
            loss = self.model.loss(self.views(x, self._generator), self.views(x, self._generator))
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ModelError(
                f"the self-supervised training came to a loss of {value} in step {self._done + 1}; try a smaller "
                "pretraining_rate"
            )
        self._optimizer.step()
        self.model.follow()
        self._done += 1
        return value


def pretrain(
    make: MakePretextNet,
    net: nn.Module,
    x: Tensor,
    settings: PretrainingSettings,
    views: ViewSettings,
    generator: torch.Generator,
) -> list[float]:
    """Trains a net without labels; it is in eval mode afterwards.

    Args:
        make: adds the heads, with weights from torch's own generator.
        net: is trained in its place.
        x: images [n, 1 or 3, h, w] within 0 to 1, at least two.
        settings: see `PretrainingSettings`.
        views: how views are drawn.
        generator: of order and views.

    Returns:
        the mean loss of each epoch.

    Raises:
        ModelError: see `Pretraining`.
    """
    order = Epochs(torch.ones(len(x)), min(settings.pretraining_batch, len(x)), generator)
    steps = max(1, settings.pretraining_epochs * order.batches)
    training = Pretraining(make, net, x[:1], settings, views, steps, generator)
    losses = []
    for _ in range(settings.pretraining_epochs):
        found = [training.step(x[places.to(x.device)]) for places in order]
        losses.append(sum(found) / len(found))
    net.eval()
    return losses


def _features(net: nn.Module, example: Tensor) -> int:
    """Number of a net's features."""
    net.eval()
    with torch.no_grad():
        return int(Encoder(net)(example).shape[1])
