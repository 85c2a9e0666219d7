"""The gate for a model that is no classifier: an update that costs quality on trusted data is undone."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from taster.core.guard import Guard
from taster.core.types import Batch, Tensors
from taster.defences.gates.reference_gate import CheckPolicy, Evidence, ReferenceGate
from taster.errors import GuardError
from taster.stats.paired_tests import paired_t_pvalue

Metric = Callable[[Tensor, Tensor], Tensor]
"""(output, y) -> [n]: how well the model does on each sample; higher is better."""


def metric_gate(
    probe: Batch,
    metric: Metric,
    *,
    tolerance: float,
    alpha: float = 0.01,
    check_every: int = 1,
    check_on_loss_outlier: bool = True,
    max_rewind: int = 0,
    alert_steps: int = 20,
    reset_momentum_after: int = 2,
) -> Guard:
    """Refuses an update for which there is evidence that the metric's mean on trusted samples falls by more than a
    tolerance, against the last check or against the best there was.

        metric_gate(probe, lambda output, y: -(output - y).square().flatten(1).mean(1), tolerance=0.01)

    As `probe_gate`, for regression, segmentation, language or reconstruction.

    Args:
        probe: samples with what belongs to them, that nobody else can write to.
        metric: how well the model does on each sample; higher is better.
        tolerance: fall that is let pass, in the metric's units.
        level: chance, at a check, of refusing what costs as much as the tolerance; half of it for each of the tests.
        every, sieve, back, alarm, patience: as in `probe_gate`.

    Raises:
        GuardError: for a tolerance under 0, a level that is not between 0 and 1, or steps that are none; when called,
            for a metric that does not return a number a sample.

    Source: taster's own; Student's paired test.
    """
    if tolerance < 0 or not 0 < alpha < 1 or check_every < 1 or min(max_rewind, alert_steps, reset_momentum_after) < 0:
        raise GuardError(
            f"metric_gate: got tolerance {tolerance}, alpha {alpha}, check_every {check_every}, max_rewind {max_rewind}, alert_steps {alert_steps}, "
            f"reset_momentum_after {reset_momentum_after}; wanted check_every of 1 or more, an alpha between 0 and 1, and the others of 0 or more"
        )
    watch = CheckPolicy(
        check_every=check_every,
        check_on_loss_outlier=check_on_loss_outlier,
        max_rewind=max_rewind,
        alert_steps=alert_steps,
        reset_momentum_after=reset_momentum_after,
    )
    return Guard(gates=[ReferenceGate("metric_gate", MetricTest(metric, tolerance, alpha), probe, watch)])


class MetricTest:
    """A `Judge` that goes by one number a sample, "quality"."""

    def __init__(self, metric: Metric, tolerance: float, alpha: float) -> None:
        self._metric = metric
        self._tolerance = tolerance
        self._alpha = alpha

    def prepare(self, probe: Batch) -> None:
        """Nothing to get ready."""

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """[n]."""
        found = self._metric(output, y)
        if not isinstance(found, Tensor) or found.shape != (len(y),):
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise GuardError(f"the metric returned {got}, wanted one number a sample, [{len(y)}]")
        return {"quality": found.detach()}

    def test_drop(self, before: Tensors, now: Tensors, when: str, *, alarmed: bool) -> Evidence | None:
        """By Student's paired test."""
        tolerance = 0.0 if alarmed else self._tolerance
        p = paired_t_pvalue(before["quality"], now["quality"], tolerance)
        if p >= self._alpha / 2:
            return None
        fall = float(before["quality"].double().mean() - now["quality"].double().mean())
        return Evidence(
            f"the metric on the probe would fall by {fall:.3g} against {when}: more than {tolerance:g} (p = {p:.1g})",
            {"drop": fall, "tolerance": tolerance, "p": p, "alarmed": float(alarmed)},
        )

    def any_drop(self, last: Tensors, now: Tensors) -> Evidence | None:
        """By the mean."""
        fall = float(last["quality"].double().mean() - now["quality"].double().mean())
        if fall <= 0:
            return None
        return Evidence(f"a part of a refused batch would cost {fall:.3g} of the metric", {"drop": fall})

    def improved(self, anchor: Tensors, now: Tensors) -> bool:
        """Where the mean has grown for certain."""
        return paired_t_pvalue(now["quality"], anchor["quality"]) < self._alpha

    def acceptable(self, anchor: Tensors, now: Tensors) -> bool:
        """Where it lies at most half the tolerance under the anchor's."""
        return float(anchor["quality"].double().mean() - now["quality"].double().mean()) <= self._tolerance / 2
