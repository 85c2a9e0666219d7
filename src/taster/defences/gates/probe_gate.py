"""A gate on trusted data: an update that costs accuracy on it is undone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.core.guard import Guard
from taster.core.types import Batch, Tensors
from taster.defences.gates.reference_gate import CheckPolicy, Evidence, ReferenceGate
from taster.stats.detection_bound import DetectionBound, detection_bound
from taster.stats.paired_tests import mcnemar_pvalue, paired_t_pvalue
from taster.utils.settings import validate_settings

_log = logging.getLogger(__name__)

_TESTS = 4
_POOR = 10
"""Times its tolerance (or a point) that a probe's promise may be before it is told that it is small."""


@validate_settings
def probe_gate(
    probe: Batch,
    *,
    tolerance: Annotated[float, Field(ge=0, le=100)] = 1.0,
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    class_tolerance: Annotated[float, Field(ge=0, le=100)] | None = 5.0,
    check_every: Annotated[int, Field(ge=1)] = 1,
    check_on_loss_outlier: bool = True,
    max_rewind: Annotated[int, Field(ge=0)] = 0,
    alert_steps: Annotated[int, Field(ge=0)] = 20,
    probe_bfloat16: bool = False,
    reset_momentum_after: Annotated[int, Field(ge=0)] = 2,
) -> Guard:
    """Refuses an update for which there is evidence that it costs more than a tolerance on trusted samples.

    The model before and after classifies the same samples, and the tests are paired, so that the noise of a small probe
    does not veto honest updates. Two are made, each against the last check and against the anchor, so that harm cannot
    add up in steps too small to see:

        accuracy                                  McNemar's
        the mean probability of the true class    Student's, which tells harm from fewer samples

    What is new to a model costs it confidence before it pays in accuracy: where there is evidence, by Student's test
    too, that the loss has got better, accuracy alone is asked for.

    The anchor is the state at the first step; it moves up where a test of that kind says, that the accuracy
    has grown, and never down. Each test is made overall and, with half its level, class by class, so that harm to one
    class cannot hide in the mean.

    Args:
        probe: labelled samples that nobody else can write to; the more there are, the less harm passes.
        tolerance: fall that is let pass, in points.
        level: chance, at a check, of refusing what costs as much as the tolerances; what costs less is refused more
            seldom, so that it can be large (`DetectionBound.false_alarm` is the chance for what costs nothing).
        class_tolerance: the same for one class, in points; None looks at no classes.
        every: steps between checks; the cost falls with it, and what is refused goes back as many steps.
        sieve: looks between checks too where a batch's loss is strange: four standard errors and more above that of
            trusted samples at the last check. It costs nothing by itself.
        back: steps that a slow drift may be taken back, to the newest state that had not lost half the tolerance;
            0 refuses the update with which the drift becomes evident.
        alarm: steps after a refusal in which every update is looked at and the overall tolerance is nothing: who is
            attacked can spare some honest batches. What is refused for the alarm's sake alone does not prolong it.
        patience: refusals in a row after which the learner lets go of the optimizer's momentum, which would otherwise
            be in the next update again and have it refused too; 0 for never.
        half: looks at the probe in bfloat16, which where the hardware has it costs about half.

    A probe that is small for its tolerance is told by a warning: `ProbeGate.promise` says what it can promise, and
    `Guard.renew` gives the gate a new one as the world drifts.

    Source: taster's own. Rejection on a validation set goes back to Nelson et al. 2008 ("reject on negative impact");
        the tests are those of `taster.stats.paired_tests`.
    """
    watch = CheckPolicy(
        check_every, check_on_loss_outlier, max_rewind, alert_steps, probe_bfloat16, reset_momentum_after
    )
    gate = ProbeGate(probe, tolerance, alpha, class_tolerance, watch)
    fall = gate.detection_bound().max_accuracy_drop
    if fall > _POOR * max(tolerance, 1.0):
        _log.warning(
            "a probe of %d samples tells a fall of %.0f points from chance and none that is smaller, though %g were "
            "asked for; give it more samples (taster.promise says how many)",
            len(probe),
            fall,
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
        """How far accuracy can have fallen below the anchor's without the gate's noticing; see `taster.promise`.

        It counts on the one test of accuracy against the anchor alone; the others find harm that this one does not.
        Where the models differ on more samples than `churn` has it, beyond the fall, the bound is wider.
        """
        return detection_bound(
            len(self.probe),
            tolerance=self._accuracy.tolerance,
            alpha=self._accuracy.accuracy_alpha,
            checks=checks,
            refusals=refusals,
            confidence=confidence,
            churn=churn,
            outcomes=self.rewind_outcomes,
        )


@dataclass(frozen=True)
class _Group:
    """Samples that are tested together: a share of the level is theirs."""

    name: str
    mask: Tensor
    tolerance: float
    share: float


class AccuracyTest:
    """A `Judge` that goes by the probability of the true class ("probability") and by right or wrong ("right")."""

    def __init__(self, tolerance: float, alpha: float, class_tolerance: float | None) -> None:
        self.tolerance = tolerance
        self._alpha = alpha
        self._class_tolerance = class_tolerance
        self._groups: list[_Group] = []

    @property
    def accuracy_alpha(self) -> float:
        """Of one test on all samples."""
        return self._groups[0].share * self._alpha / _TESTS

    def prepare(self, probe: Batch) -> None:
        """All samples, and those of each class."""
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
        """[n] each."""
        own = output.softmax(1).gather(1, y[:, None]).squeeze(1)
        return {"probability": own, "right": output.argmax(1) == y}

    def test_drop(self, before: Tensors, now: Tensors, when: str, *, alarmed: bool) -> Evidence | None:
        """By either."""
        tests: tuple[tuple[str, str, Callable[[Tensor, Tensor, float], float]], ...] = (
            ("right", "accuracy", mcnemar_pvalue),
            ("probability", "probability of the true class", paired_t_pvalue),
        )
        # What is new to the model costs it confidence in the old before it pays in accuracy; in the loss it pays at
        # once.
        learned = paired_t_pvalue(before["loss"], now["loss"]) < self._alpha / _TESTS
        for name, what, fell in tests[:1] if learned else tests:
            for group in self._groups:
                then, there = before[name][group.mask], now[name][group.mask]
                tolerance = 0.0 if alarmed and group.name == "" else group.tolerance
                p = fell(then, there, tolerance / 100)
                if p < group.share * self._alpha / _TESTS:
                    fall = 100 * float(then.float().mean() - there.float().mean())
                    return Evidence(
                        f"{what} on the probe{group.name} would fall by {fall:.1f} points against {when}: more than "
                        f"{tolerance:g} (p = {p:.1g})",
                        {"drop": fall, "tolerance": tolerance, "p": p, "alarmed": float(alarmed)},
                    )
        return None

    def any_drop(self, last: Tensors, now: Tensors) -> Evidence | None:
        """By the probability, which hardly ever stays the same."""
        fall = 100 * float(last["probability"].double().mean() - now["probability"].double().mean())
        if fall <= 0:
            return None
        return Evidence(f"a part of a refused batch would cost {fall:.2f} points of probability", {"drop": fall})

    def improved(self, anchor: Tensors, now: Tensors) -> bool:
        """Where the accuracy has grown for certain."""
        return mcnemar_pvalue(now["right"], anchor["right"]) < self._alpha / len(self._groups)

    def acceptable(self, anchor: Tensors, now: Tensors) -> bool:
        """Where it lies at most half the tolerance under the anchor's."""
        fall = anchor["right"].float().mean() - now["right"].float().mean()
        return 100 * float(fall) <= self.tolerance / 2
