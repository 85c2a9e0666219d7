"""Losses of linear classifiers in their logits, with first and second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

ConvexLoss = Literal["logistic", "ridge", "squared_hinge"]


class LossTerms(NamedTuple):
    """Losses of samples and their derivatives in the logits.

    Attributes:
        value: [n].
        slope: first derivatives, [n, K].
        curvature: second derivatives, [n, K, K]; [n, K] where those between two logits are zero.
    """

    value: Tensor
    slope: Tensor
    curvature: Tensor


def logistic(z: Tensor, y: Tensor) -> LossTerms:
    """Cross-entropy of the softmax: −log p_y."""
    log_p = z.log_softmax(1)
    p = log_p.exp()
    return LossTerms(
        -log_p.gather(1, y[:, None])[:, 0],
        p - _indicator(y, z),
        torch.diag_embed(p) - p[:, :, None] * p[:, None, :],
    )


def ridge(z: Tensor, y: Tensor) -> LossTerms:
    """Half the squared distance to the one-hot label."""
    gap = z - _indicator(y, z)
    return LossTerms(gap.square().sum(1) / 2, gap, torch.ones_like(z))


def squared_hinge(z: Tensor, y: Tensor) -> LossTerms:
    """One machine for each class against the rest: ½ Σ_k max(0, 1 − s_k z_k)², s_k = 1 for the label and −1 else."""
    sign = 2 * _indicator(y, z) - 1
    short = (1 - sign * z).clamp_min(0)
    return LossTerms(short.square().sum(1) / 2, -sign * short, (short > 0).to(z))


LOSSES: dict[ConvexLoss, Callable[[Tensor, Tensor], LossTerms]] = {
    "logistic": logistic,
    "ridge": ridge,
    "squared_hinge": squared_hinge,
}
"""By name: functions of logits [n, K] and labels int64 [n]."""


def _indicator(y: Tensor, z: Tensor) -> Tensor:
    return one_hot(y, z.shape[1]).to(z)
