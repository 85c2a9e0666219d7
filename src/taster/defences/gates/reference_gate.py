"""What gates on trusted samples share: when they check, what they remember, and how far they go back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from taster.core.guard import CandidateUpdate
from taster.core.types import COMMIT, Batch, StepRecord, Tensors, Verdict
from taster.core.view import View
from taster.defences.gates.check_trail import CheckTrail, undo
from taster.defences.gates.probe_measurement import ProbeMeasurement
from taster.defences.gates.quality_sources import QualitySource
from taster.defences.gates.quality_test import Evidence, QualityTest
from taster.errors import GuardError

_OUTLIER = 4.0
"""Standard errors above the trusted samples' mean loss from which a batch's loss is an outlier."""


@dataclass(frozen=True)
class CheckPolicy:
    """When a gate checks, and how far it goes back.

    Attributes:
        check_every: steps between checks.
        check_on_loss_outlier: whether it checks at once after a batch with an outlying loss.
        max_rewind: the maximum number of steps by which a drift from the anchor is undone; 0 undoes the update alone.
        alert_steps: steps after a refusal in which the gate is alerted.
        reset_momentum_after: consecutive refusals after which the learner zeros the momentum; 0 for never.
    """

    check_every: int = 1
    check_on_loss_outlier: bool = True
    max_rewind: int = 0
    alert_steps: int = 20
    reset_momentum_after: int = 2


class ReferenceGate:
    """Judges the model on trusted samples after every few steps, against the last check and against an anchor.

    The anchor is the state at the first step; it moves up when the test finds the model improved, and never down.
    After a refusal the gate is alerted for a while: it checks every step, and its test tolerates no drop. Between
    checks, a batch with an outlying loss is checked at once: one whose loss is further above that of the trusted
    samples at the last check than chance allows for its size.

    Args:
        name: the name in records.
        test: compares.
        source: measures.
        policy: when it checks, and how far it goes back.
    """

    def __init__(self, name: str, test: QualityTest, source: QualitySource, policy: CheckPolicy) -> None:
        self.name = name
        self._test = test
        self._policy = policy
        self._measure = ProbeMeasurement(name, source)
        self._prepared = False
        self._anchor: Tensors | None = None
        self._trail = CheckTrail(policy.max_rewind)
        self._unchecked = 0  # committed steps since the last check
        self._alerted = 0  # steps left of the alert
        # The state before the first step, with the step's index: `observe` starts from it.
        self._start: tuple[int, Tensors] | None = None

    @property
    def probe(self) -> Batch | None:
        """The trusted samples, where there are some."""
        return self._measure.probe

    @property
    def max_rewind(self) -> int:
        """The maximum number of steps it goes back."""
        return max(self._policy.check_every - 1, self._policy.max_rewind)

    @property
    def reset_momentum_after(self) -> int:
        """Consecutive refusals after which the learner zeros the momentum; 0 for never."""
        return self._policy.reset_momentum_after

    @property
    def rewind_outcomes(self) -> int:
        """In how many ways a refusal can turn out."""
        return self._policy.max_rewind + 1

    def replace_source(self, source: QualitySource) -> None:
        """Measures by another source. The model before the next step is the new anchor.

        The owner vouches for the present model: harm done before is not held against later updates.
        """
        self._measure.replace(source)
        self._prepared = False
        self._anchor = self._start = None
        self._trail.clear()
        self._unchecked = self._alerted = 0

    def check_model(self, view: View) -> None:
        """Checks that trusted samples, task and model fit together.

        Raises:
            BatchError, ModelError, LabelError: when the model cannot take the probe, or has no output for a label.
            GuardError: when a measurement of the model is NaN or infinite.
        """
        self._test.check_quantities(self._measure.check_model(view))
        self._test.prepare(self._measure.source.classes(), self._measure.source.words)
        self._prepared = True

    def __call__(self, change: CandidateUpdate) -> Verdict:
        """Measures the probe after the update, if a check is due, and undoes the update if it did harm."""
        if not self._prepared:
            self.check_model(change.before)
        step, last = self._last_check(change)
        if not self._wants_check(change, step, last):
            return COMMIT
        now = self._measure(change.after)
        last_good = step if self._unchecked else change.step
        nonfinite = self._measure.nonfinite(now)
        if nonfinite is not None:
            return undo(change, last_good, f"after the update {nonfinite}")
        evidence = self._drop_since_last_check(change, last, now)
        if evidence is None and self._test.any_drop(last, now) is not None:
            # An update that improves the model is not held to what came before it.
            anchor = last if self._anchor is None else self._anchor
            evidence = self._test.test_drop(anchor, now, "the anchor", alerted=self._alerted > 0)
            if evidence is not None and self._policy.max_rewind:
                last_good = min(last_good, self._newest_acceptable(change.step, anchor))
        return COMMIT if evidence is None else undo(change, last_good, evidence.reason, evidence.numbers)

    def observe(self, record: StepRecord, view: View) -> None:
        """Remembers what was measured, and moves the anchor up if the model has improved."""
        verdict, following = record.verdict, record.step + 1
        anchor = self._require_anchor(record, view)
        # A refusal caused only by the alert does not extend it: honest steps would never end it.
        refused = verdict.stage == self.name and not verdict.evidence.get("alerted")
        self._alerted = self._policy.alert_steps if refused else max(0, self._alerted - 1)
        if record.trusted and verdict.committed:
            self._anchor, self._alerted = self._measure.reference(view), 0
            self._trail.clear()
            self._keep(following, self._anchor)
        elif verdict.steps:
            there = self._trail.forget_from(record.step - verdict.steps)
            self._keep(following, self._measure.reference(view) if there is None else there)
        elif verdict.committed:
            if self._measure.is_known(view) or self._due(record.step, self._trail.newest[0]):
                now = self._measure(view)
                self._keep(following, now)
                self._anchor = self._test.raised(anchor, now)
            else:
                self._unchecked += 1
        elif not self._unchecked:
            self._trail.postpone(following)

    def state_dict(self) -> dict[str, Any]:
        """What was measured at the anchor and at the last checks, and the steps since."""
        return {
            "anchor": self._anchor,
            "trail": self._trail.state_dict(),
            "unchecked": self._unchecked,
            "alerted": self._alerted,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what was measured.

        Raises:
            CheckpointError: when it was measured on a probe of another size; nothing has been loaded then.
        """
        measured = [*CheckTrail.entries(state["trail"]).values()]
        measured += [] if state["anchor"] is None else [state["anchor"]]
        self._measure.check_saved(measured)
        self._anchor = state["anchor"]
        self._trail.load_state_dict(state["trail"])
        self._unchecked, self._alerted = state["unchecked"], state["alerted"]

    def _last_check(self, change: CandidateUpdate) -> tuple[int, Tensors]:
        """The last check; before the first step, one of the model as it was before the update."""
        if not self._trail:
            self._start = (change.step, self._measure.reference(change.before))
            return self._start
        step, last = self._trail.newest
        if step > change.step:
            raise GuardError(
                f"{self.name}: got step {change.step} of a learner after a check before step {step}: this guard has "
                "watched another learner; wanted a new guard, or new trusted data (Guard.set_trusted_data)"
            )
        return step, last

    def _wants_check(self, change: CandidateUpdate, checked: int, last: Tensors) -> bool:
        if change.attempt or self._alerted or self._due(change.step, checked):
            return True
        return self._policy.check_on_loss_outlier and "loss" in last and _is_outlier(change, last["loss"])

    def _drop_since_last_check(self, change: CandidateUpdate, last: Tensors, now: Tensors) -> Evidence | None:
        evidence = self._test.test_drop(last, now, "the last check", alerted=self._alerted > 0)
        # A part of a refused batch gets no benefit of the doubt.
        return self._test.any_drop(last, now) if evidence is None and change.attempt else evidence

    def _newest_acceptable(self, step: int, anchor: Tensors) -> int:
        return self._trail.newest_acceptable(
            step, self._policy.max_rewind, lambda kept: self._test.acceptable(anchor, kept)
        )

    def _require_anchor(self, record: StepRecord, view: View) -> Tensors:
        """The anchor; at the first step, the state before it, or the present one if that was not measured."""
        if self._anchor is None:
            known = self._start is not None and self._start[0] == record.step
            self._anchor = self._start[1] if known and self._start else self._measure.reference(view)
            self._trail.clear()
            self._trail.append(record.step, self._anchor)
        return self._anchor

    def _due(self, step: int, checked: int) -> bool:
        return step + 1 - checked >= self._policy.check_every

    def _keep(self, step: int, measured: Tensors) -> None:
        """Counts the state before this step as checked."""
        self._trail.append(step, measured)
        self._unchecked = 0


def _is_outlier(change: CandidateUpdate, losses: Tensor) -> bool:
    """Whether a batch's loss is further above the trusted samples' than chance allows for its size."""
    if change.loss is None:
        return False
    losses, samples = losses.double(), max(1, change.samples)
    error = float(losses.std()) / samples**0.5 if len(losses) > 1 else 0.0
    if error == 0.0:  # a loss that is none of single samples
        return False
    return not change.loss <= float(losses.mean()) + _OUTLIER * error
