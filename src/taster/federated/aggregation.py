"""Aggregation of client updates into one gradient: pure functions of values [m, d] and weights [m]."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from taster.client_gradients import merge_statistics
from taster.core.client_updates import ClientUpdates
from taster.core.guard import ScreenedBatch
from taster.core.param_vectors import trainable_parameters, unflatten
from taster.core.state import LearnerState
from taster.core.step import GradientFn
from taster.core.types import Tensors
from taster.core.view import View
from taster.errors import GuardError
from taster.federated.aggregators.coordinate_wise import column_median
from taster.federated.replies import NamedClientUpdates
from taster.federated.reply_format import averaged_buffers

AggregationFn = Callable[[Tensor, Tensor], Tensor]
"""Maps values [m, d] and weights [m] to one update [d]."""


@runtime_checkable
class ModelAwareAggregator(Protocol):
    """A rule that depends on the model too."""

    def bind(self, view: View, /) -> AggregationFn:
        """The rule for the present model."""
        ...


AggregationRule = AggregationFn | ModelAwareAggregator


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean Σ wₘ vₘ / Σ wₘ (McMahan et al. 2017)."""
    return (weights / weights.sum()) @ values


def check_rule(rule: Any) -> None:
    """Checks that a rule can be called with values and weights.

    Raises:
        GuardError: for anything else, such as the function that makes a rule.
    """
    if isinstance(rule, ModelAwareAggregator) and not isinstance(rule, type):
        return
    name = getattr(rule, "__name__", type(rule).__name__)
    if not callable(rule):
        raise GuardError(f"rule: got {name}, wanted a function of values [m, d] and weights [m]")
    try:
        signature = inspect.signature(rule)
    except (TypeError, ValueError):  # some callables written in C have no signature
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise GuardError(
            f"rule: got {name}{signature}, wanted a function of values [m, d] and weights [m]; call {name}() if it "
            "makes one"
        ) from error


def aggregate_gradient(rule: AggregationRule) -> GradientFn[ClientUpdates]:
    """The gradient function of a federated round for `Learner.run`: the clients' updates, aggregated.

    Weights that screens set multiply the ones that clients claim. Within the step's transaction, batch-norm statistics
    of the clients that are left are merged into the model, or their buffers replace the model's: by the weighted mean
    where the rule is the mean, otherwise by the coordinate-wise median.

    Raises (when called):
        GuardError: when the rule returns anything but one update [d].
    """

    def compute_gradient(screened: ScreenedBatch[ClientUpdates], state: LearnerState) -> tuple[Tensors, None]:
        updates = screened.batch
        weights = updates.weights if screened.weights is None else updates.weights * screened.weights
        aggregate = rule.bind(state.view()) if isinstance(rule, ModelAwareAggregator) else rule
        update = aggregate(updates.values, weights)
        if not isinstance(update, Tensor) or update.shape != updates.values.shape[1:]:
            got = list(update.shape) if isinstance(update, Tensor) else type(update).__name__
            raise GuardError(
                f"the aggregation rule {_name(rule)} returned {got}, wanted a tensor [{updates.values.shape[1]}]"
            )
        if isinstance(updates, NamedClientUpdates) and updates.statistics is not None:
            _record_statistics(updates.statistics, state)
        if isinstance(updates, NamedClientUpdates) and updates.buffers is not None:
            buffers = updates.buffers
            _write_buffers(mean(buffers, weights) if _is_plain_mean(rule) else column_median(buffers), state)
        return as_gradient(update, state), None

    return compute_gradient


def as_gradient(vector: Tensor, state: LearnerState) -> Tensors:
    """A vector [d] as a gradient of the trainable parameters, in their order."""
    return unflatten(vector, trainable_parameters(state.module))


def _name(rule: AggregationRule) -> str:
    return str(getattr(rule, "name", "") or getattr(rule, "__name__", type(rule).__name__))


def _is_plain_mean(rule: AggregationRule) -> bool:
    """Whether the rule is the mean without pre-aggregators, which would not apply to buffers."""
    return rule is mean or (getattr(rule, "name", "") == "mean" and not getattr(rule, "pre_aggregators", ()))


def _record_statistics(statistics: Tensor, state: LearnerState) -> None:
    view = state.view()
    new = merge_statistics(view.buffers, dict(state.module.named_modules()), statistics)
    with torch.no_grad():
        for name, buffer in state.module.named_buffers():
            if new[name] is not view.buffers[name]:
                buffer.copy_(new[name])


def _write_buffers(values: Tensor, state: LearnerState) -> None:
    own = averaged_buffers(state.module)
    with torch.no_grad():
        for name, value in unflatten(values, own).items():
            own[name].copy_(value)
