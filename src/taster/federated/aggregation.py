"""Aggregation of client updates into one gradient: pure functions of values [m, d] and weights [m]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taster.learner import Learner
from taster.stages import Admitted
from taster.step import Reduce
from taster.types import Tensors, Updates

Aggregate = Callable[[Tensor, Tensor], Tensor]
"""From values [m, d] and weights [m] to one update [d]."""


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean Σ wₘ vₘ / Σ wₘ (McMahan et al. 2017)."""
    return (weights / weights.sum()) @ values


def coordinate_median(values: Tensor, weights: Tensor) -> Tensor:
    """The median of each coordinate, whatever the weights (Yin et al. 2018); the middle two's mean for an even m."""
    ordered = values.sort(dim=0).values
    middle = (len(values) - 1) // 2
    return (ordered[middle] + ordered[len(values) - 1 - middle]) / 2


def aggregated(aggregate: Aggregate) -> Reduce[Updates]:
    """Federated learning's `reduce` for `guarded_step`: the clients' updates, aggregated, as the gradient.

    Weights that screens set multiply the ones that clients claim.
    """

    def reduce(admitted: Admitted[Updates], learner: Learner) -> tuple[Tensors, None]:
        updates = admitted.batch
        weights = updates.weights if admitted.weights is None else updates.weights * admitted.weights
        return unflatten(aggregate(updates.values, weights), learner), None

    return reduce


def flatten(gradient: Tensors) -> Tensor:
    """A gradient as one vector [d], in the order of its names."""
    return torch.cat([value.reshape(-1) for value in gradient.values()])


def unflatten(vector: Tensor, learner: Learner) -> Tensors:
    """A vector [d] as a gradient of the learner's trainable parameters, in their order."""
    named = {name: p for name, p in learner.model.named_parameters() if p.requires_grad}
    parts = torch.split(vector, [p.numel() for p in named.values()])
    return {name: part.reshape(p.shape) for (name, p), part in zip(named.items(), parts, strict=True)}
