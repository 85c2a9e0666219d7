"""A gate on trusted data: an update that costs accuracy on it is undone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taster.core.guard import Guard
from taster.core.types import Batch, Tensors
from taster.defences.gates.reference_gate import CheckPolicy, Evidence, ReferenceGate
from taster.stats.detection_bound import MAX_SAMPLES, DetectionBound, detection_bound
from taster.stats.paired_tests import mcnemar_pvalue, paired_t_pvalue
from taster.utils.setting_types import Alpha, Count, Points, PositiveCount
from taster.utils.settings import validate_settings

_log = logging.getLogger(__name__)

_TESTS = 4
_SMALL = 10
"""Multiple of the tolerance (or of one point) that a probe's detection bound may reach without a warning."""

_LARGE = 10_000
"""Samples from which on no probe is small."""


@validate_settings
def probe_gate(
    probe: Batch,
    *,
    tolerance: Points = 1.0,
    alpha: Alpha = 0.05,
    class_tolerance: Points | None = 5.0,
    check_every: PositiveCount = 1,
    check_on_loss_outlier: bool = True,
    max_rewind: Count = 0,
    alert_steps: Count = 20,
    probe_bfloat16: bool = False,
    reset_momentum_after: Count = 2,
) -> Guard:
    """Refuses an update if there is evidence that it costs more than a tolerance on trusted samples.

    The model before and after the update classifies the same samples, and the tests are paired, so that the noise of a
    small probe does not veto honest updates. There are two tests, each against the last check and against the anchor,
    so that harm cannot accumulate in steps too small to see:

        accuracy                                  McNemar's test
        the mean probability of the true class    Student's paired test, which needs fewer samples to find harm

    New data costs a model confidence before it pays in accuracy: if the loss has significantly improved, by Student's
    test too, only accuracy is tested.

    The anchor is the state at the first step; it moves up when its accuracy has significantly grown, and never down.
    Each test is made overall and, with half of its alpha, class by class, so that harm to one class cannot hide in the
    mean.

    Args:
        probe: labelled samples that nobody else can write to; the more there are, the less harm passes.
        tolerance: drop in accuracy or mean probability that is let through, in percentage points.
        alpha: probability, at a check, of refusing an update that costs as much as the tolerances; what costs less is
            refused more rarely (`DetectionBound.false_alarm_rate` is the probability for what costs nothing).
        class_tolerance: the same for one class, in points; None tests no classes.
        check_every: steps between checks; the cost falls with it, and a refusal goes back by as many steps.
        check_on_loss_outlier: checks between checks too, when a batch's loss is four or more standard errors above that
            of the trusted samples at the last check. It costs nothing by itself.
        max_rewind: the maximum number of steps by which a slow drift is undone, to the newest state that had lost no
            more than half the tolerance; 0 refuses the update with which the drift becomes evident.
        alert_steps: steps after a refusal in which every update is checked and the overall tolerance is zero: a learner
            under attack can spare some honest batches. A refusal caused only by the alert does not extend it.
        probe_bfloat16: runs the model on the probe in bfloat16, which costs about half on hardware that supports it.
        reset_momentum_after: consecutive refusals after which the learner zeros the optimizer's momentum, which would
            otherwise be part of the next update and have it refused too; 0 for never.

    A probe that is small for its tolerance causes a warning. `ProbeGate.detection_bound` says what the probe can
    detect, and `Guard.set_trusted_data` replaces it as the world drifts.

    Raises:
        BatchError: for a probe with NaN or infinity, or with fewer than two samples.
        LabelError: for labels that are not class indices.

    Source: taster's own. Rejection on a validation set goes back to Nelson et al. 2008 ("reject on negative impact");
        the tests are those of `taster.stats.paired_tests`.
    """
    policy = CheckPolicy(
        check_every, check_on_loss_outlier, max_rewind, alert_steps, probe_bfloat16, reset_momentum_after
    )
    gate = ProbeGate(probe, tolerance, alpha, class_tolerance, policy)
    if len(probe) < _LARGE and (drop := gate.detection_bound().max_accuracy_drop) > _SMALL * max(tolerance, 1.0):
        _log.warning(
            "a probe of %d samples cannot tell a drop of less than %.0f points from chance, though a tolerance of %g "
            "was set; give it more samples (taster.detection_bound says how many)",
            len(probe),
            drop,
            tolerance,
        )
    return Guard(gates=[gate])


class ProbeGate(ReferenceGate):
    """The gate of `probe_gate`."""

    def __init__(
        self, probe: Batch, tolerance: float, alpha: float, class_tolerance: float | None, policy: CheckPolicy
    ) -> None:
        self._accuracy = AccuracyTest(tolerance, alpha, class_tolerance)
        super().__init__("probe_gate", self._accuracy, probe, policy)

    def detection_bound(
        self, *, checks: int = 1, refusals: int = 0, confidence: float = 0.95, churn: float = 5.0
    ) -> DetectionBound:
        """How far accuracy can have dropped below the anchor's unnoticed; see `taster.detection_bound`.

        It counts on the one test of accuracy against the anchor; the other tests find harm that this one does not. If
        the models differ on more samples than `churn` beyond the drop, the bound is wider.
        """
        return detection_bound(
            min(len(self.probe), MAX_SAMPLES),
            tolerance=self._accuracy.tolerance,
            alpha=self._accuracy.overall_alpha,
            checks=checks,
            refusals=refusals,
            confidence=confidence,
            churn=churn,
            outcomes=self.rewind_outcomes,
        )


@dataclass(frozen=True)
class _Group:
    """Samples that are tested together, and the fraction of alpha that their tests have."""

    name: str
    mask: Tensor
    tolerance: float
    alpha_fraction: float


class AccuracyTest:
    """A `QualityTest` of the true class's probability ("probability") and of correct classification ("correct").

    Args:
        tolerance: drop overall that is let through, in points.
        alpha: of all tests of one check.
        class_tolerance: drop in one class that is let through, in points; None tests no classes.
    """

    classes: ClassVar[bool] = True

    def __init__(self, tolerance: float, alpha: float, class_tolerance: float | None) -> None:
        self.tolerance = tolerance
        self._alpha = alpha
        self._class_tolerance = class_tolerance
        self._groups: list[_Group] = []

    @property
    def overall_alpha(self) -> float:
        """The alpha of one test on all samples."""
        return self._groups[0].alpha_fraction * self._alpha / _TESTS

    def prepare(self, probe: Batch) -> None:
        """Groups the samples: all of them, and those of each class."""
        everything = torch.ones_like(probe.y, dtype=torch.bool)
        if self._class_tolerance is None:
            self._groups = [_Group("", everything, self.tolerance, 1.0)]
            return
        labels = torch.unique(probe.y).tolist()
        whole = _Group("", everything, self.tolerance, 0.5)
        self._groups = [
            whole,
            *(_Group(f", class {n},", probe.y == n, self._class_tolerance, 0.5 / len(labels)) for n in labels),
        ]

    def measure(self, output: Tensor, y: Tensor) -> Tensors:
        """Probability and correctness, [n] each."""
        own = output.softmax(1).gather(1, y[:, None]).squeeze(1)
        return {"probability": own, "correct": output.argmax(1) == y}

    def test_drop(self, before: Tensors, now: Tensors, when: str, *, alerted: bool) -> Evidence | None:
        """Evidence from either test, overall or in a class."""
        tests: tuple[tuple[str, str, Callable[[Tensor, Tensor, float], float]], ...] = (
            ("correct", "accuracy", mcnemar_pvalue),
            ("probability", "probability of the true class", paired_t_pvalue),
        )
        # New data costs a model confidence in the old before it pays in accuracy; in the loss it pays at once.
        learned = paired_t_pvalue(before["loss"], now["loss"]) < self._alpha / _TESTS
        for name, what, pvalue in tests[:1] if learned else tests:
            for group in self._groups:
                then, there = before[name][group.mask], now[name][group.mask]
                tolerance = 0.0 if alerted and group.name == "" else group.tolerance
                p = pvalue(then, there, tolerance / 100)
                if p < group.alpha_fraction * self._alpha / _TESTS:
                    drop = 100 * float(then.float().mean() - there.float().mean())
                    return Evidence(
                        f"{what} on the probe{group.name} would fall by {drop:.1f} points against {when}: more than "
                        f"{tolerance:g} (p = {p:.1g})",
                        {"drop": drop, "tolerance": tolerance, "p": p, "alerted": float(alerted)},
                    )
        return None

    def any_drop(self, last: Tensors, now: Tensors) -> Evidence | None:
        """By the mean probability, which hardly ever stays the same."""
        drop = 100 * float(last["probability"].double().mean() - now["probability"].double().mean())
        if drop <= 0:
            return None
        return Evidence(f"a part of a refused batch would cost {drop:.2f} points of probability", {"drop": drop})

    def improved(self, anchor: Tensors, now: Tensors) -> bool:
        """Whether accuracy has significantly grown."""
        return mcnemar_pvalue(now["correct"], anchor["correct"]) < self._alpha / len(self._groups)

    def acceptable(self, anchor: Tensors, now: Tensors) -> bool:
        """Whether accuracy is at most half the tolerance below the anchor's."""
        drop = anchor["correct"].float().mean() - now["correct"].float().mean()
        return 100 * float(drop) <= self.tolerance / 2
