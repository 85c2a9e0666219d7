"""The gate for a model that is no classifier: an update that costs quality on trusted data is undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from taster.core.guard import Guard
from taster.core.types import Batch, Tensors
from taster.defences.gates.reference_gate import CheckPolicy, Evidence, ReferenceGate
from taster.errors import GuardError, TasterError
from taster.stats.paired_tests import paired_t_pvalue
from taster.utils.setting_types import Alpha, Count, NonNegative, PositiveCount
from taster.utils.settings import validate_settings

Metric = Callable[[Tensor, Tensor], Tensor]
"""(output, y) -> [n]: how well the model does on each sample; higher is better."""


@validate_settings
def metric_gate(
    probe: Batch,
    metric: Metric,
    *,
    tolerance: NonNegative,
    alpha: Alpha = 0.01,
    check_every: PositiveCount = 1,
    check_on_loss_outlier: bool = True,
    max_rewind: Count = 0,
    alert_steps: Count = 20,
    reset_momentum_after: Count = 2,
) -> Guard:
    """Refuses an update if there is evidence that the metric's mean on trusted samples falls by more than a tolerance,
    against the last check or against the anchor.

        metric_gate(probe, lambda output, y: -(output - y).square().flatten(1).mean(1), tolerance=0.01)

    As `probe_gate`, for regression, segmentation, language or reconstruction.

    Args:
        probe: samples with their targets, that nobody else can write to.
        metric: how well the model does on each sample; higher is better.
        tolerance: drop that is let through, in the metric's units.
        alpha: probability, at a check, of refusing an update that costs as much; half of it for each of the two tests.
        check_every, check_on_loss_outlier, max_rewind, alert_steps, reset_momentum_after: as in `probe_gate`.

    An update after which the metric is NaN or infinite on a trusted sample is refused.

    Raises:
        SettingError: for settings out of range.
        BatchError: for a probe with NaN or infinity, or with fewer than two samples.
        GuardError (when a learner is made with it): for a metric that fails, does not return one number per sample, or
            is NaN or infinite on one.

    Source: taster's own; Student's paired test.
    """
    policy = CheckPolicy(
        check_every, check_on_loss_outlier, max_rewind, alert_steps, reset_momentum_after=reset_momentum_after
    )
    return Guard(gates=[ReferenceGate("metric_gate", MetricTest(metric, tolerance, alpha), probe, policy)])


class MetricTest:
    """A `QualityTest` of one number per sample, "metric".

    Args:
        metric: how well the model does on each sample; higher is better.
        tolerance: drop of the mean that is let through.
        alpha: of the two tests of one check.
    """

    classes: ClassVar[bool] = False

    def __init__(self, metric: Metric, tolerance: float, alpha: float) -> None:
        self._metric = metric
        self._tolerance = tolerance
        self._alpha = alpha

    def prepare(self, probe: Batch) -> None:
        """Needs no preparation."""

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """The metric, [n].

        Raises:
            GuardError: for a metric that fails, or does not return one real number per sample.
        """
        try:
            found = self._metric(output, y)
        except (TasterError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise GuardError(
                f"metric_gate: the metric failed on outputs {list(output.shape)} and targets {list(y.shape)}: {error!r}"
            ) from error
        if not isinstance(found, Tensor) or found.shape != (len(y),) or found.is_complex():
            got = f"{list(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            raise GuardError(f"the metric returned {got}, wanted one real number per sample, [{len(y)}]")
        return {"metric": found.detach()}

    def test_drop(self, before: Tensors, now: Tensors, when: str, *, alerted: bool) -> Evidence | None:
        """Evidence from Student's paired test."""
        tolerance = 0.0 if alerted else self._tolerance
        p = paired_t_pvalue(before["metric"], now["metric"], tolerance)
        if p >= self._alpha / 2:
            return None
        drop = _mean_drop(before, now)
        return Evidence(
            f"the metric on the probe would fall by {drop:.3g} against {when}: more than {tolerance:g} (p = {p:.1g})",
            {"drop": drop, "tolerance": tolerance, "p": p, "alerted": float(alerted)},
        )

    def any_drop(self, last: Tensors, now: Tensors) -> Evidence | None:
        """By the mean."""
        drop = _mean_drop(last, now)
        if drop <= 0:
            return None
        return Evidence(f"a part of a refused batch would cost {drop:.3g} of the metric", {"drop": drop})

    def improved(self, anchor: Tensors, now: Tensors) -> bool:
        """Whether the mean has significantly grown."""
        return paired_t_pvalue(now["metric"], anchor["metric"]) < self._alpha

    def acceptable(self, anchor: Tensors, now: Tensors) -> bool:
        """Whether the mean is at most half the tolerance below the anchor's."""
        return _mean_drop(anchor, now) <= self._tolerance / 2


def _mean_drop(before: Tensors, now: Tensors) -> float:
    return float(before["metric"].double().mean() - now["metric"].double().mean())
