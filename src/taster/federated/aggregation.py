"""Aggregation of client updates into one gradient: pure functions of values [m, d] and weights [m]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from taster.client_gradients import merge_statistics
from taster.core.guard import ScreenedBatch
from taster.core.learner import Learner
from taster.core.param_vectors import flatten, floating_buffers, trainable_parameters, unflatten
from taster.core.step import GradientFn
from taster.core.types import Tensors, Updates
from taster.core.view import View
from taster.federated.client_updates import NamedClientUpdates

AggregationFn = Callable[[Tensor, Tensor], Tensor]
"""From values [m, d] and weights [m] to one update [d]."""


@runtime_checkable
class ModelAwareAggregator(Protocol):
    """A rule that goes by the model as well."""

    def bind(self, view: View, /) -> AggregationFn:
        """The rule at a moment of the model."""
        ...


AggregationRule = AggregationFn | ModelAwareAggregator


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean Σ wₘ vₘ / Σ wₘ (McMahan et al. 2017)."""
    return (weights / weights.sum()) @ values


def aggregate_gradient(rule: AggregationRule) -> GradientFn[Updates]:
    """Federated learning's `reduce` for `guarded_step`: the clients' updates, aggregated, as the gradient.

    Weights that screens set multiply the ones that clients claim. Batch-norm statistics that clients bring along are
    recorded, those of clients that were dropped left out, inside the step's transaction. Buffers that they bring along
    become the model's: their weighted mean where the rule is the mean, else their median, coordinate by coordinate.
    """

    def reduce(admitted: ScreenedBatch[Updates], learner: Learner) -> tuple[Tensors, None]:
        updates = admitted.batch
        weights = updates.weights if admitted.weights is None else updates.weights * admitted.weights
        aggregate = rule.bind(learner.view()) if isinstance(rule, ModelAwareAggregator) else rule
        update = aggregate(updates.values, weights)
        if isinstance(updates, NamedClientUpdates) and updates.statistics is not None:
            _record_statistics(updates.statistics, learner)
        if isinstance(updates, NamedClientUpdates) and updates.buffers is not None:
            _write_buffers(
                mean(updates.buffers, weights) if _is_plain_mean(rule) else _median(updates.buffers), learner
            )
        return as_gradient(update, learner), None

    return reduce


def _is_plain_mean(rule: AggregationRule) -> bool:
    """Whether it is the mean and nothing before it: of clipped updates the buffers are not clipped."""
    return rule is mean or (getattr(rule, "name", "") == "mean" and not getattr(rule, "pre_aggregators", ()))


def as_gradient(vector: Tensor, learner: Learner) -> Tensors:
    """A vector [d] as a gradient of the learner's trainable parameters, in their order."""
    return unflatten(vector, trainable_parameters(learner.model))


def _record_statistics(statistics: Tensor, learner: Learner) -> None:
    view = learner.view()
    new = merge_statistics(view.buffers, view.functional_model.layers, statistics)
    with torch.no_grad():
        for name, buffer in learner.model.named_buffers():
            buffer.copy_(new[name])


def _median(rows: Tensor) -> Tensor:
    ranked, count = rows.sort(0).values, len(rows)
    return (ranked[(count - 1) // 2] + ranked[count // 2]) / 2


def _write_buffers(buffers: Tensor, learner: Learner) -> None:
    """Writes merged buffers [b] into the model; those of whole numbers stay as they are."""
    own = floating_buffers(learner.model)
    with torch.no_grad():
        for name, value in unflatten(buffers, own).items():
            own[name].copy_(value)


__all__ = [
    "AggregationFn",
    "AggregationRule",
    "ModelAwareAggregator",
    "aggregate_gradient",
    "as_gradient",
    "flatten",
    "mean",
]
