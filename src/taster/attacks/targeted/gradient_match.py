"""How far the gradient of poison is from the gradient that would teach a net the attacker's goal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from taster.attacks.surrogate import loss_of
from taster.core.batch import Batch
from taster.core.view import View
from taster.derivatives import Derivatives, inner


class GradientMatch:
    """The mean over nets of 1 − cos(∇_θ L(targets, wanted class; θ), ∇_θ L(poison, its labels; θ)), one cosine over all
    trainable parameters.

    L is the training's mean loss, with normalisation in eval mode. From 0, where a step on the poison does what a step
    on the targets would, to 2.

    Args:
        views: of the nets.
        wanted: the targets x [k, ...] with the class y [k] that is wanted.
        derivatives: computes the derivatives.

    Source: Geiping et al. 2021; the mean over an ensemble as there.
    """

    def __init__(self, views: Sequence[View], wanted: Batch, derivatives: Derivatives) -> None:
        self._derivatives = derivatives
        self._nets = [(loss_of(view), view.trainable) for view in views]
        self._towards = [derivatives.gradient(loss, params, wanted) for loss, params in self._nets]
        self._slopes = [
            derivatives.mixed(loss, params, [(1.0, towards)], "global")
            for (loss, params), towards in zip(self._nets, self._towards, strict=True)
        ]

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Of poison x [n, ...] with labels y [n]: one number, without a graph."""
        cosines = [
            inner(self._derivatives.gradient(loss, params, Batch(x, y)), towards, "global")
            for (loss, params), towards in zip(self._nets, self._towards, strict=True)
        ]
        return 1 - torch.stack(cosines).mean()

    def ascent(self, x: Tensor, y: Tensor) -> Tensor:
        """The direction in which it falls, minus its gradient in the samples, [n, ...]."""
        return torch.stack([slope(x, y) for slope in self._slopes]).mean(0)

    def sample_norms(self, samples: Batch) -> Tensor:
        """The Euclidean norm of each sample's own gradient, [n], the mean over nets."""
        each = torch.arange(len(samples), device=samples.x.device)[:, None]
        norms = [[self._norm(net, samples.select(place)) for place in each] for net in range(len(self._nets))]
        return torch.stack([torch.stack(own) for own in norms]).mean(0)

    def _norm(self, net: int, sample: Batch) -> Tensor:
        found = self._derivatives.gradient(*self._nets[net], sample)
        return torch.stack([value.square().sum() for value in found.values()]).sum().sqrt()
