"""Losses of linear classifiers in their logits, with first and second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

ConvexLoss = Literal["logistic", "ridge", "squared_hinge"]


class Curvature(Protocol):
    """The second derivatives C of the losses of n samples in their K logits, without their n K K numbers."""

    @property
    def separate(self) -> bool:
        """Whether those between two logits are zero."""

    def entry(self, a: int, b: int) -> Tensor:
        """Those between logits a and b, [n]."""

    def apply(self, values: Tensor) -> Tensor:
        """C v of each sample, [n, K]."""

    def weighted(self, weights: Tensor) -> Curvature:
        """Of the losses times weights [n]."""


@dataclass(frozen=True, eq=False)
class SeparateCurvature:
    """Of losses that are sums over the logits: a diagonal for each sample.

    Attributes:
        diagonal: [n, K].
    """

    diagonal: Tensor
    separate = True

    def entry(self, a: int, b: int) -> Tensor:
        """See `Curvature`."""
        return self.diagonal[:, a] if a == b else torch.zeros_like(self.diagonal[:, a])

    def apply(self, values: Tensor) -> Tensor:
        """See `Curvature`."""
        return self.diagonal * values

    def weighted(self, weights: Tensor) -> SeparateCurvature:
        """See `Curvature`."""
        return SeparateCurvature(weights[:, None] * self.diagonal)


@dataclass(frozen=True, eq=False)
class SoftmaxCurvature:
    """Of the cross-entropy: w (diag(p) − p pᵀ).

    Attributes:
        p: probabilities, [n, K].
        weights: w, [n].
    """

    p: Tensor
    weights: Tensor
    separate = False

    def entry(self, a: int, b: int) -> Tensor:
        """See `Curvature`."""
        return self.weights * self.p[:, a] * (float(a == b) - self.p[:, b])

    def apply(self, values: Tensor) -> Tensor:
        """See `Curvature`."""
        along = self.p * values
        return self.weights[:, None] * (along - self.p * along.sum(1, keepdim=True))

    def weighted(self, weights: Tensor) -> SoftmaxCurvature:
        """See `Curvature`."""
        return SoftmaxCurvature(self.p, weights * self.weights)


class LossTerms(NamedTuple):
    """Losses of samples and their derivatives in the logits.

    Attributes:
        value: [n].
        slope: first derivatives, [n, K].
        curvature: second derivatives.
    """

    value: Tensor
    slope: Tensor
    curvature: Curvature


def logistic(z: Tensor, y: Tensor) -> LossTerms:
    """Cross-entropy of the softmax: −log p_y."""
    log_p = z.log_softmax(1)
    p = log_p.exp()
    return LossTerms(
        -log_p.gather(1, y[:, None])[:, 0],
        p - _indicator(y, z),
        SoftmaxCurvature(p, torch.ones_like(p[:, 0])),
    )


def ridge(z: Tensor, y: Tensor) -> LossTerms:
    """Half the squared distance to the one-hot label."""
    gap = z - _indicator(y, z)
    return LossTerms(gap.square().sum(1) / 2, gap, SeparateCurvature(torch.ones_like(z)))


def squared_hinge(z: Tensor, y: Tensor) -> LossTerms:
    """One machine for each class against the rest: ½ Σ_k max(0, 1 − s_k z_k)², s_k = 1 for the label and −1 else."""
    sign = 2 * _indicator(y, z) - 1
    short = (1 - sign * z).clamp_min(0)
    return LossTerms(short.square().sum(1) / 2, -sign * short, SeparateCurvature((short > 0).to(z)))


LOSSES: dict[ConvexLoss, Callable[[Tensor, Tensor], LossTerms]] = {
    "logistic": logistic,
    "ridge": ridge,
    "squared_hinge": squared_hinge,
}
"""By name: functions of logits [n, K] and labels int64 [n]."""


def _indicator(y: Tensor, z: Tensor) -> Tensor:
    return one_hot(y, z.shape[1]).to(z)
