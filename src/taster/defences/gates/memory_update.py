"""What a step changes in the memory of a gate on trusted samples, once its outcome is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

from taster.core.step_record import StepRecord
from taster.core.types import Tensors
from taster.core.view import View
from taster.defences.gates.anchor import Anchor
from taster.defences.gates.check_memory import CheckMemory
from taster.defences.gates.check_policy import CheckPolicy
from taster.defences.gates.check_record import Seen
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.probe_measurement import ProbeMeasurement
from taster.stats.paired_sums import PairedSums


@dataclass(frozen=True)
class MemoryUpdate:
    """Updates the memory by a step.

    Attributes:
        memory: is changed.
        policy: of the gate.
        criteria: what counts as harm, and as an improvement.
        measure: measures the state after the step, where it has not done so.
    """

    memory: CheckMemory
    policy: CheckPolicy
    criteria: HarmCriteria
    measure: ProbeMeasurement

    def __call__(self, record: StepRecord, view: View, seen: Seen | None, *, refused: bool) -> None:
        """Updates it.

        Args:
            record: of the step.
            view: of the model after the step.
            seen: what a check has seen of an update that was committed; None without a check.
            refused: whether this gate refused it.
        """
        memory, verdict = self.memory, record.verdict
        memory.count(record, refused=refused, alert_steps=self.policy.alert_steps)
        if refused and verdict.evidence.get("audited"):
            memory.was_audited()
            if verdict.evidence.get("below"):
                self._set_floor(view)
            else:  # the model is in a state that was found good enough
                memory.floor = None
        if record.trusted and verdict.committed:
            self._trust(view)
            self._was_checked(record, view)
        elif verdict.steps:
            self._was_checked(record, view)
        elif verdict.committed:
            self._commit(record, view, seen)
        elif not memory.unchecked and memory.checked is not None:
            memory.checked = replace(memory.checked, step=record.step + 1)

    def _trust(self, view: View) -> None:
        """The owner vouches for the model: it is the new anchor."""
        memory, measured = self.memory, self.measure.reference(view)
        memory.anchor = Anchor.of(measured, self.criteria, memory.swings, young=self.policy.young)
        memory.floor, memory.alerted, memory.struck = None, 0, {}
        memory.was_audited()

    def _commit(self, record: StepRecord, view: View, seen: Seen | None) -> None:
        """What is committed is how honest steps swing, for as long as nothing is found."""
        memory = self.memory
        last = record.step if memory.checked is None else memory.checked.step
        if seen is None and record.step + 1 - last < self.policy.check_every:
            memory.unchecked += 1
            return
        if record.loss is not None and record.attempts <= 1:
            memory.add_batch_loss(record.loss)
        if seen is not None:
            memory.add_drops(seen)
            if seen.below:
                self._set_floor(view)
            else:
                memory.floor = None
            if seen.fallen is not None:
                self._audit(seen.fallen, self.measure(view))
            elif memory.anchor is not None:
                memory.anchor = memory.anchor.checked()
        self._was_checked(record, view)

    def _audit(self, fallen: dict[str, PairedSums], now: Tensors) -> None:
        """Moves the anchor up where the model has improved, and says what it does now."""
        memory = self.memory
        assert memory.anchor is not None
        memory.anchor = memory.anchor.audited(fallen, now, self.criteria, memory.swings)
        memory.phase = memory.anchor.phase(fallen, self.criteria)
        memory.was_audited()

    def _set_floor(self, view: View) -> None:
        """To the first state that was found below the anchor with no way back, until the model has risen."""
        if self.memory.floor is None:
            self.memory.floor = self.measure.reference(view)

    def _was_checked(self, record: StepRecord, view: View) -> None:
        """Counts the state after the step as checked."""
        measured = self.measure.reference(view) if self.policy.keeps_measured else None
        self.memory.was_checked(record.step + 1, measured)
