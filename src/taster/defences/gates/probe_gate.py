"""A gate on trusted data: an update that costs accuracy, or what counts in another task, is undone."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from taster.core.batch import Batch
from taster.core.guard import Guard
from taster.core.step_record import StepRecord
from taster.core.threat import countermeasure
from taster.core.view import View
from taster.defences.gates.check_policy import CheckPolicy
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.probe_source import ProbeSource
from taster.defences.gates.reference_gate import ReferenceGate
from taster.errors import GuardError, LabelError
from taster.stats.detection_bound import MAX_SAMPLES, DetectionBound, detection_bound
from taster.tasks import Task, labels_of, named_task
from taster.utils.setting_types import Alpha, Count, Points, PositiveCount
from taster.utils.settings import validate_settings

_log = logging.getLogger(__name__)

_SMALL = 10
"""Multiple of the tolerance (or of one point) that a probe's detection bound may reach without a warning."""

_LARGE = 10_000
"""Samples from which on no probe is small."""


@countermeasure(
    "test",
    "indiscriminate availability",
    "targeted availability",
    note="A backdoor costs no accuracy, so that integrity is not answered.",
)
@validate_settings
def probe_gate(
    probe: Any,
    *,
    task: str | Any | None = None,
    tolerance: Points = 1.0,
    alpha: Alpha = 0.01,
    class_tolerance: Points | None = 5.0,
    check_every: PositiveCount = 1,
    check_on_loss_outlier: bool = True,
    max_rewind: Count = 0,
    alert_steps: Count = 20,
    probe_bfloat16: bool = False,
    reset_momentum_after: Count = 2,
    seed: Count | None = None,
) -> Guard:
    """Refuses an update that costs more on trusted samples than honest steps swing, and goes back when losses add up.

    The model before and after the update predicts the same samples, and the tests are paired, so that the noise of a
    small probe does not veto honest updates. For a classifier they are of

        accuracy                                  McNemar's test
        the mean probability of the true class    Student's paired test, which needs fewer samples to find harm

    and for other tasks of the quantities of `taster.tasks`, by Student's test: shares of right pixels, tokens or
    answers and the probability of the true ones, explained variance, discounted gain.

    A step is harm if the last of them falls by more than half the tolerance, the first by more than the tolerance, by
    more than five robust scales of the last sixty changes that were committed (three where the batch's own loss is an
    outlier), and by more than chance. The samples are looked at in a random order, 128 and then twice as many each
    time, until the verdict is clear.

    Audits, which take a tenth of the work or come at once where a look gives reason to, compare the model with
    the anchor: the state at the first step, which moves up when its accuracy has significantly grown, and never down.
    What may be lost from it is the tolerance, or what honest steps swung when it was taken (twice the tolerance while
    that is not known). If the loss has significantly improved, an audit holds the model to its accuracy alone, as new
    data costs a model confidence before it pays in accuracy. Of the samples beyond the first thousand, up to three
    fifths are looked at by audits alone.

    All of this is tested overall and, with half of alpha and wider limits, class by class, so that harm to one class
    cannot hide in the mean. A model that does no better than chance has nothing to lose, and nothing is refused.

    Args:
        probe: labelled samples that nobody else can write to; the more there are, the less harm passes. A `Batch`, a
            data set or a data loader.
        task: what counts: "classification", "binary", "multilabel", "segmentation", "tokens", "next_tokens",
            "regression", "ranking", or a `taster.tasks.Task`. None tells it from the shapes of outputs and labels.
        tolerance: drop in accuracy, or another quantity, that is let through, in percentage points.
        alpha: probability, at a check, of refusing an update that costs nothing, at most; such a one must also seem to
            cost more than the limits.
        class_tolerance: the same for one class, in points; None tests no classes.
        check_every: steps between checks; the cost falls with it, and a refusal goes back by as many steps.
        check_on_loss_outlier: checks between checks too, when a batch's loss is four or more standard errors above that
            of the trusted samples at the last check. It costs nothing by itself.
        max_rewind: the maximum number of steps by which a slow drift is undone, to the newest state that had lost no
            more than half the tolerance; 0 refuses the update with which the drift becomes evident.
        alert_steps: steps after a refusal in which every step is checked, whatever `check_every` says.
        probe_bfloat16: runs the model on the probe in bfloat16, which costs about half on hardware that supports it.
        reset_momentum_after: consecutive refusals after which the learner zeros the optimizer's momentum, which would
            otherwise be part of the next update and have it refused too; 0 for never.
        seed: of the order in which samples are looked at; None takes one that nobody knows.

    A probe that is small for its tolerance causes a warning. `ProbeGate.detection_bound` says what the probe can
    detect, and `Guard.set_trusted_data` replaces it as the world drifts.

    Raises:
        BatchError: for a probe with NaN or infinity, or with fewer than two samples.
        LabelError: for labels that are not class indices.

    Source: taster's own. Rejection on a validation set goes back to Nelson et al. 2008 ("reject on negative impact");
        the tests are those of `taster.stats.paired_tests`.
    """
    policy = CheckPolicy(check_every, check_on_loss_outlier, max_rewind, alert_steps, reset_momentum_after, seed)
    criteria = HarmCriteria(tolerance, alpha, class_tolerance=class_tolerance)
    gate = ProbeGate(probe, named_task(task, "probe_gate"), criteria, policy, bfloat16=probe_bfloat16)
    samples = len(gate.trusted)
    if gate.has_classes and samples < _LARGE:
        warn_of_small_probe(samples, tolerance, gate.detection_bound())
    return Guard(gates=[gate])


def warn_of_small_probe(samples: int, tolerance: float, bound: DetectionBound) -> None:
    """Says where a probe makes sure of drops far above the tolerance alone."""
    drop = bound.max_accuracy_drop
    if samples < _LARGE and drop > _SMALL * max(tolerance, 1.0):
        _log.warning(
            "a probe of %d samples finds most harm, but makes sure only that no drop of more than %.0f points passes a "
            "check (95 %%, whoever attacks; the tolerance is %g); more samples make sure of more: taster.probe.size "
            "says how many",
            samples,
            drop,
            tolerance,
        )


class ProbeGate(ReferenceGate):
    """The gate of `probe_gate`."""

    def __init__(
        self, probe: Any, task: Task | None, criteria: HarmCriteria, policy: CheckPolicy, *, bfloat16: bool = False
    ) -> None:
        self._task = task
        self._bfloat16 = bfloat16
        super().__init__("probe_gate", criteria, self._source(probe), policy)

    def _source(self, probe: Any) -> ProbeSource:
        return ProbeSource("probe_gate", probe, self._task, bfloat16=self._bfloat16)

    @property
    def trusted(self) -> Batch:
        """The trusted samples."""
        probe = self.probe
        assert probe is not None
        return probe

    @property
    def has_classes(self) -> bool:
        """Whether each sample has one class: by the task, or by the labels while that is not known."""
        source = self._measure.source
        task = source.task if isinstance(source, ProbeSource) else self._task
        if task is not None:
            return task.name in ("classification", "binary")
        try:
            y: Tensor = labels_of(self.trusted, self.name)
        except LabelError:
            return False
        return y.dim() == 1 and not (y.is_floating_point() or y.is_complex())

    def set_trusted_data(self, probe: Any) -> None:
        """Replaces the probe. The model before the next step is the new anchor.

        The owner vouches for the present model: harm done before is not held against later updates.
        """
        self.replace_source(self._source(probe))

    def observe(self, record: StepRecord, view: View) -> None:
        """As of every gate on trusted samples; and looks whether refusals have used them up."""
        super().observe(record, view)
        if self.has_classes:
            self._age.observe_use(
                lambda checks, refusals: self.detection_bound(checks=checks, refusals=refusals).max_accuracy_drop
            )

    def detection_bound(
        self, *, checks: int = 1, refusals: int = 0, confidence: float = 0.95, churn: float = 5.0
    ) -> DetectionBound:
        """How far accuracy can have dropped below the anchor's unnoticed; see `taster.detection_bound`.

        It counts on the one test of accuracy against the anchor; the other tests find harm that this one does not. If
        the models differ on more samples than `churn` beyond the drop, the bound is wider.

        Raises:
            GuardError: for tasks without classes, and for numbers out of range.
        """
        if not self.has_classes:
            raise GuardError(
                "got a probe whose samples have no class each, wanted mean_bound(...), the promise for other quantities"
            )
        return detection_bound(
            min(len(self.trusted), MAX_SAMPLES),
            tolerance=self._criteria.tolerance_of("correct"),
            alpha=self._criteria.alpha_held_out if self.held_out else self._criteria.alpha_of_one(2, classes=True),
            checks=checks,
            refusals=refusals,
            confidence=confidence,
            churn=churn,
            outcomes=self.rewind_outcomes,
            held_out=self.held_out,
            held_out_refusals=min(refusals, self.held_out_refusals),
        )
