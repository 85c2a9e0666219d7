"""Gradient descent on a small network, and the derivative of its outcome in training samples, in reverse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from taster.utils.setting_types import NonNegative, PositiveCount, PositiveFloat
from taster.utils.settings import settings_group

Params = tuple[Tensor, ...]


@settings_group
class UnrolledSettings:
    """The training of a fully connected network that an attack differentiates through.

    Attributes:
        hidden: widths of the hidden layers, with tanh; none is multinomial logistic regression.
        steps: T, of gradient descent on the whole training set.
        learning_rate: η.
        l2: λ, the weight of ½ ‖θ‖² beside the mean loss.
        iterates: where the reverse pass has the parameters of each step from. "stored": they were kept, and the
            derivative is exact. "reversed": θ_t ≈ θ_{t+1} + η ∇L(θ_{t+1}), as the paper does; memory does not grow
            with T.
    """

    hidden: list[Annotated[int, Field(ge=1)]] | None = None
    steps: PositiveCount = 100
    learning_rate: PositiveFloat = 0.2
    l2: NonNegative = 0.0
    iterates: Literal["stored", "reversed"] = "stored"


@dataclass(frozen=True, eq=False)
class UnrolledTraining:
    """The training of a network on fixed samples and on points that are to be optimized.

    Attributes:
        settings: of network and training.
        x, y: fixed samples, [n, d] and int64 [n].
        start: first parameters, the same in every run.
    """

    settings: UnrolledSettings
    x: Tensor
    y: Tensor
    start: Params

    def loss(self, params: Params, points: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over fixed samples and points [k, d] together, with the regularization."""
        found = cross_entropy(logits(params, torch.cat([self.x, points])), torch.cat([self.y, labels]))
        if self.settings.l2:
            found = found + self.settings.l2 / 2 * torch.stack([param.square().sum() for param in params]).sum()
        return found

    def run(self, points: Tensor, labels: Tensor) -> list[Params]:
        """The parameters θ_0 to θ_T of gradient descent, or θ_T alone where they are not stored.

        Args:
            points: [k, d].
            labels: theirs, int64 [k].
        """
        params, kept = self.start, [self.start]
        for _ in range(self.settings.steps):
            params = self._moved(params, self._slope(params, points, labels), -1)
            kept = [*kept, params] if self.settings.iterates == "stored" else [params]
        return kept

    def back(self, kept: list[Params], points: Tensor, labels: Tensor, outer: Params) -> Tensor:
        """∂F / ∂ points through the training, [k, d].

        Args:
            kept: what `run` returned.
            points: [k, d].
            labels: int64 [k].
            outer: ∇F at θ_T.

        Source: Muñoz-González et al. 2017, back-gradient descent (after Maclaurin et al. 2015 and Domke 2012).
        """
        eta, stored = self.settings.learning_rate, self.settings.iterates == "stored"
        params, along, found = kept[-1], outer, torch.zeros_like(points)
        for t in reversed(range(self.settings.steps)):
            params = kept[t] if stored else self._moved(params, self._slope(params, points, labels), 1)
            held = tuple(param.detach().requires_grad_() for param in params)
            moved = points.detach().requires_grad_()
            with torch.enable_grad():
                slope = torch.autograd.grad(self.loss(held, moved, labels), held, create_graph=True)
                product = torch.stack([(g * v).sum() for g, v in zip(slope, along, strict=True)]).sum()
                *second, mixed = torch.autograd.grad(product, (*held, moved))
            found = found - eta * mixed
            along = tuple(v - eta * h for v, h in zip(along, second, strict=True))
        return found

    def _slope(self, params: Params, points: Tensor, labels: Tensor) -> Params:
        held = tuple(param.detach().requires_grad_() for param in params)
        with torch.enable_grad():
            return torch.autograd.grad(self.loss(held, points.detach(), labels), held)

    def _moved(self, params: Params, slope: Params, sign: int) -> Params:
        step = sign * self.settings.learning_rate
        return tuple(param + step * g for param, g in zip(params, slope, strict=True))


def logits(params: Params, x: Tensor) -> Tensor:
    """Of samples [n, d], [n, K]: weights and biases of each layer in turn, tanh between layers."""
    for weight, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
        x = (x @ weight.T + bias).tanh()
    return x @ params[-2].T + params[-1]


def mean_loss(params: Params, x: Tensor, y: Tensor) -> tuple[float, Params]:
    """Mean cross-entropy of samples [m, d] under labels [m], and its gradient."""
    held = tuple(param.detach().requires_grad_() for param in params)
    with torch.enable_grad():
        value = cross_entropy(logits(held, x), y)
        return float(value.detach()), torch.autograd.grad(value, held)


def first_params(widths: Sequence[int], like: Tensor, generator: torch.Generator) -> Params:
    """Random weights, normal with variance 2 / (inputs + outputs), and biases of zero, for layers of these widths; all
    zero for a single layer, whose loss is convex.

    Source: Glorot and Bengio 2010.
    """
    params: list[Tensor] = []
    for inputs, outputs in pairwise(widths):
        drawn = torch.randn(outputs, inputs, generator=generator, device=generator.device, dtype=torch.float64)
        scale = math.sqrt(2 / (inputs + outputs)) if len(widths) > 2 else 0.0
        params += [(scale * drawn).to(like.device), like.new_zeros(outputs)]
    return tuple(params)
