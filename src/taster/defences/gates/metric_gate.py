"""The gate for a quantity of the user's own: an update that costs quality on trusted data is undone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PlainValidator

from taster.core.guard import Guard
from taster.defences.gates.check_policy import CheckPolicy
from taster.defences.gates.evaluate_source import EvaluateFn, EvaluateSource
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.metric_source import Metric, MetricSource
from taster.defences.gates.reference_gate import ReferenceGate
from taster.errors import GuardError, SettingError
from taster.stats.mean_bound import MeanBound, mean_bound
from taster.utils.setting_types import Alpha, Count, PositiveCount
from taster.utils.settings import validate_settings


def _checked(value: Any) -> Any:
    numbers = list(value.values()) if isinstance(value, Mapping) else [value]
    if not numbers or not all(isinstance(n, (int, float)) and not isinstance(n, bool) and n >= 0 for n in numbers):
        raise ValueError("a number of at least 0, or such numbers by name")
    return value


Tolerance = Annotated[float | Mapping[str, float], PlainValidator(_checked)]
"""A drop in a quantity's units; one for all quantities, or by name."""


@validate_settings
def metric_gate(
    probe: Any = None,
    metric: Metric | None = None,
    *,
    evaluate: EvaluateFn | None = None,
    tolerance: Tolerance,
    alpha: Alpha = 0.01,
    check_every: PositiveCount = 1,
    check_on_loss_outlier: bool = True,
    max_rewind: Count = 0,
    alert_steps: Count = 20,
    reset_momentum_after: Count = 2,
    seed: Count | None = None,
) -> Guard:
    """Refuses an update if there is evidence that a quantity's mean falls by more than a tolerance, against the last
    check or against the anchor.

        metric_gate(probe, lambda output, y: -(output - y).square().flatten(1).mean(1), tolerance=0.01)
        metric_gate(evaluate=lambda model: hits(model, questions), tolerance=0.02)

    As `probe_gate`, for what no task of `taster.tasks` measures, or as another counts it.

    Args:
        probe: samples with their targets, that nobody else can write to; a `Batch`, a data set or a data loader.
        metric: of (output, y), [n]: how well the model does on each sample; higher is better. For a batch that holds
            everything in one, y is the batch.
        evaluate: of (model), in place of both: runs the model itself, and returns one number a sample, [n], or several
            by name, {name: [n]}; the same samples in the same order each time. The model is a copy in eval mode.
        tolerance: drop below the anchor that is let through, in the quantity's units; one for all, or by name. From one
            check to the next half of it is.
        alpha: probability, at a check, of refusing an update that costs nothing, at most, shared out over the tests:
            two a quantity.
        check_every, check_on_loss_outlier, max_rewind, alert_steps, reset_momentum_after, seed: as in `probe_gate`.

    An update after which a quantity is NaN or infinite on a trusted sample is refused. How far one can fall unnoticed
    says `mean_bound` of the gate.

    Raises:
        SettingError: for settings out of range, and unless there are either a probe and a metric or `evaluate`.
        BatchError: for a probe with NaN or infinity, or with fewer than two samples.
        GuardError (when a learner is made with it): for a metric that fails, does not return one number per sample, or
            is NaN or infinite on one.

    Source: taster's own; Student's paired test.
    """
    policy = CheckPolicy(check_every, check_on_loss_outlier, max_rewind, alert_steps, reset_momentum_after, seed)
    criteria = HarmCriteria(tolerance, alpha, points=False)
    if evaluate is not None and probe is None and metric is None:
        return Guard(gates=[MetricGate("metric_gate", criteria, EvaluateSource("metric_gate", evaluate), policy)])
    if evaluate is not None or probe is None or metric is None:
        raise SettingError(
            "metric_gate: got neither a probe and a metric, nor evaluate alone; wanted metric_gate(probe, metric, "
            "tolerance=...) or metric_gate(evaluate=..., tolerance=...)"
        )
    return Guard(gates=[ProbeMetricGate(probe, metric, criteria, policy)])


class MetricGate(ReferenceGate):
    """The gate of `metric_gate`."""

    def mean_bound(
        self,
        deviation: float,
        *,
        samples: int | None = None,
        quantity: str = "metric",
        checks: int = 1,
        refusals: int = 0,
        confidence: float = 0.95,
    ) -> MeanBound:
        """How far a quantity's mean can have dropped below the anchor's unnoticed; see `taster.stats.mean_bound`.

        Args:
            deviation: standard deviation over samples of the change between two models; what is found at honest steps
                will do.
            samples: how many; None takes the probe's.
            quantity: its name, where there are several.
            checks, refusals, confidence: as in `taster.detection_bound`.

        Raises:
            GuardError: for numbers out of range.
        """
        count = samples if samples is not None else 0 if self.probe is None else len(self.probe)
        if not count:
            raise GuardError(
                "mean_bound: got a gate that evaluates by itself and no samples, wanted mean_bound(samples=...)"
            )
        return mean_bound(
            count,
            deviation,
            tolerance=self._criteria.tolerance_of(quantity),
            alpha=self._criteria.alpha_of_one(1, classes=False),
            checks=checks,
            refusals=refusals,
            confidence=confidence,
            outcomes=self.rewind_outcomes,
        )


class ProbeMetricGate(MetricGate):
    """The gate of `metric_gate` with a probe."""

    def __init__(self, probe: Any, metric: Metric, criteria: HarmCriteria, policy: CheckPolicy) -> None:
        self._metric = metric
        super().__init__("metric_gate", criteria, MetricSource("metric_gate", probe, metric), policy)

    def set_trusted_data(self, probe: Any) -> None:
        """Replaces the probe. The model before the next step is the new anchor."""
        self.replace_source(MetricSource("metric_gate", probe, self._metric))
