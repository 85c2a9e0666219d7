"""The gate for a model that is no classifier: an update that costs quality on trusted data is undone."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from taster.core.guard import Guard
from taster.core.types import Batch, Tensors
from taster.defences.gates.reference_gate import AnchoredGate, Finding, Watch
from taster.errors import GuardError
from taster.stats.paired_tests import mean_fell

Metric = Callable[[Tensor, Tensor], Tensor]
"""(output, y) -> [n]: how well the model does on each sample; higher is better."""


def metric_gate(
    probe: Batch,
    metric: Metric,
    *,
    tolerance: float,
    level: float = 0.01,
    every: int = 1,
    sieve: bool = True,
    back: int = 0,
    alarm: int = 20,
    patience: int = 2,
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
    if tolerance < 0 or not 0 < level < 1 or every < 1 or min(back, alarm, patience) < 0:
        raise GuardError(
            f"metric_gate: got tolerance {tolerance}, level {level}, every {every}, back {back}, alarm {alarm}, "
            f"patience {patience}; wanted every of 1 or more, a level between 0 and 1, and the others of 0 or more"
        )
    watch = Watch(every=every, sieve=sieve, back=back, alarm=alarm, patience=patience)
    return Guard(gates=[AnchoredGate("metric_gate", _Quality(metric, tolerance, level), probe, watch)])


class _Quality:
    """A `Judge` that goes by one number a sample, "quality"."""

    def __init__(self, metric: Metric, tolerance: float, level: float) -> None:
        self._metric = metric
        self._tolerance = tolerance
        self._level = level

    def take(self, probe: Batch) -> None:
        """Nothing to get ready."""

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """[n]."""
        found = self._metric(output, y)
        if not isinstance(found, Tensor) or found.shape != (len(y),):
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise GuardError(f"the metric returned {got}, wanted one number a sample, [{len(y)}]")
        return {"quality": found.detach()}

    def fell(self, before: Tensors, now: Tensors, when: str, *, alarmed: bool) -> Finding | None:
        """By Student's paired test."""
        tolerance = 0.0 if alarmed else self._tolerance
        p = mean_fell(before["quality"], now["quality"], tolerance)
        if p >= self._level / 2:
            return None
        fall = float(before["quality"].double().mean() - now["quality"].double().mean())
        return Finding(
            f"the metric on the probe would fall by {fall:.3g} against {when}: more than {tolerance:g} (p = {p:.1g})",
            {"fall": fall, "tolerance": tolerance, "p": p, "alarmed": float(alarmed)},
        )

    def worse(self, last: Tensors, now: Tensors) -> Finding | None:
        """By the mean."""
        fall = float(last["quality"].double().mean() - now["quality"].double().mean())
        if fall <= 0:
            return None
        return Finding(f"a part of a refused batch would cost {fall:.3g} of the metric", {"fall": fall})

    def better(self, anchor: Tensors, now: Tensors) -> bool:
        """Where the mean has grown for certain."""
        return mean_fell(now["quality"], anchor["quality"]) < self._level

    def sound(self, anchor: Tensors, now: Tensors) -> bool:
        """Where it lies at most half the tolerance under the anchor's."""
        return float(anchor["quality"].double().mean() - now["quality"].double().mean()) <= self._tolerance / 2
