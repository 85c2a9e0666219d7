"""Nets that learn features from pairs of views: an encoder with the heads that self-supervised training adds to it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from taster.errors import ModelError
from taster.selfsup.contrastive_losses import info_nce, negative_cosine, nt_xent


class Encoder(nn.Module):
    """The features of a net: what goes into its last linear layer.

    Args:
        net: is trained in its place, and changes with it.

    Raises:
        ModelError: for a net without a linear layer.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise ModelError("got a model without a linear layer, wanted one, before which its features are taken")
        self.net = net
        self._last = linear[-1]

    @property
    def trained(self) -> list[nn.Parameter]:
        """Those parameters that features depend on, and that require a gradient."""
        own = self.net.named_parameters()
        return [p for name, p in own if p.requires_grad and not name.startswith(f"{self._last}.")]

    def forward(self, x: Tensor) -> Tensor:
        """Samples [n, ...] to features [n, d].

        Raises:
            ModelError: for a net that does not go through its last linear layer, or not with one row a sample.
        """
        found: list[Tensor] = []
        hook = self.net.get_submodule(self._last).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        try:
            self.net(x)
        finally:
            hook.remove()
        if not found or found[-1].dim() != 2:
            raise ModelError(f"layer: {self._last} gives no features, one row a sample")
        return found[-1]


class PretextNet(nn.Module, ABC):
    """An encoder in self-supervised training.

    Attributes:
        encoder: whose features are wanted.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.encoder = Encoder(net)

    @abstractmethod
    def loss(self, first: Tensor, second: Tensor, *, through_both: bool = False) -> Tensor:
        """The loss of a batch, [].

        Args:
            first, second: views of n images, [n, ...].
            through_both: whether a gradient in the images goes through every branch, also those that training stops it
                in.
        """

    def follow(self) -> None:
        """Called after each step of the optimizer."""

    def features(self, x: Tensor) -> Tensor:
        """Features of samples [n, ...], [n, d]."""
        found: Tensor = self.encoder(x)
        return found


MakePretextNet = Callable[[nn.Module, int], PretextNet]
"""(net, the number of its features) -> the net in self-supervised training, with heads drawn from torch's generator."""


class SimCLR(PretextNet):
    """Two views of an image are to be found among all views of a batch, by a projection with one hidden layer.

    Args:
        net: the encoder's net.
        width: number of its features.
        hidden, out: widths of the projection.
        temperature: τ.

    Source: Chen et al. 2020, Algorithm 1.
    """

    def __init__(self, net: nn.Module, width: int, *, hidden: int, out: int, temperature: float) -> None:
        super().__init__(net)
        self.projection = _two_layers(width, hidden, out)
        self.temperature = temperature

    def loss(self, first: Tensor, second: Tensor, *, through_both: bool = False) -> Tensor:  # noqa: ARG002
        """See `PretextNet.loss`; both branches have gradients in any case."""
        one, two = self.projection(self.features(torch.cat([first, second]))).chunk(2)
        return nt_xent(one, two, self.temperature)


class MoCo(PretextNet):
    """A view's key is to be found among those of earlier batches; keys are made by a net that follows slowly.

    On one device, so that batches are not shuffled between devices for batch norm.

    Args:
        net: the encoder's net.
        width: number of its features.
        hidden, out: widths of the projection.
        temperature: τ.
        momentum: m of θ_k ← m θ_k + (1 − m) θ_q.
        queue: number of keys that are kept, drawn at random at first.

    Source: He et al. 2020, Algorithm 1, with the projection of Chen et al. 2020a (MoCo v2).
    """

    queue: Tensor

    def __init__(
        self, net: nn.Module, width: int, *, hidden: int, out: int, temperature: float, momentum: float, queue: int
    ) -> None:
        super().__init__(net)
        self.projection = _two_layers(width, hidden, out)
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.key_projection = copy.deepcopy(self.projection).requires_grad_(False)
        self.temperature, self.momentum = temperature, momentum
        self.register_buffer("queue", normalize(torch.randn(queue, out), dim=1))
        self._keys = self.queue[:0]

    def loss(self, first: Tensor, second: Tensor, *, through_both: bool = False) -> Tensor:
        """See `PretextNet.loss`; training stops the gradient of the keys."""
        queries = self.projection(self.features(first))
        with torch.set_grad_enabled(through_both and torch.is_grad_enabled()):
            keys = self.key_projection(self.key_encoder(second))
        self._keys = normalize(keys.detach(), dim=1)
        return info_nce(queries, keys, self.queue, self.temperature)

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the net of the keys, and puts the last batch's keys into the queue."""
        for key, query in ((self.key_encoder, self.encoder), (self.key_projection, self.projection)):
            for slow, fast in zip(key.parameters(), query.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.momentum)
        self.queue = torch.cat([self._keys, self.queue])[: len(self.queue)]


class SimSiam(PretextNet):
    """One view's projection is to be predicted from the other's, without negative pairs.

    Args:
        net: the encoder's net.
        width: number of its features.
        hidden, out: widths of the projection; the prediction's hidden layer has a quarter of `out`.

    Source: Chen and He 2021, Algorithm 1, with a projection of two layers.
    """

    def __init__(self, net: nn.Module, width: int, *, hidden: int, out: int) -> None:
        super().__init__(net)
        self.projection = nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out, bias=False),
            nn.BatchNorm1d(out, affine=False),
        )
        narrow = max(1, out // 4)
        self.prediction = nn.Sequential(
            nn.Linear(out, narrow, bias=False), nn.BatchNorm1d(narrow), nn.ReLU(), nn.Linear(narrow, out)
        )

    def loss(self, first: Tensor, second: Tensor, *, through_both: bool = False) -> Tensor:
        """See `PretextNet.loss`; training stops the gradient of the projections that are predicted."""
        one, two = (self.projection(self.features(views)) for views in (first, second))
        seen = [part if through_both else part.detach() for part in (one, two)]
        return (negative_cosine(self.prediction(one), seen[1]) + negative_cosine(self.prediction(two), seen[0])) / 2


def _two_layers(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))
