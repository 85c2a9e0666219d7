"""What gates on trusted samples share: they check updates, audit the model, and remember what they have seen."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from taster.core.batch import Batch
from taster.core.guard import CandidateUpdate
from taster.core.step_record import StepRecord
from taster.core.verdict import COMMIT, Verdict
from taster.core.view import View
from taster.defences.gates.anchor import BELOW, UNTRAINED, Anchor
from taster.defences.gates.audit import Audit
from taster.defences.gates.baseline import Baseline
from taster.defences.gates.check_memory import CheckMemory
from taster.defences.gates.check_policy import CheckPolicy
from taster.defences.gates.check_record import LastCheck, Seen
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.memory_update import MemoryUpdate
from taster.defences.gates.probe_age import ProbeAge
from taster.defences.gates.probe_comparison import ProbeComparison
from taster.defences.gates.probe_measurement import ProbeMeasurement
from taster.defences.gates.quality_source import QualitySource
from taster.defences.gates.row_order import RowOrder
from taster.defences.gates.step_check import StepCheck
from taster.errors import CheckpointError, GuardError


class ReferenceGate:
    """Judges the model on trusted samples, against the last check and against an anchor.

    **A step** is harm where a quantity drops by more than chance allows, by more than half the tolerance, and by more
    than honest steps swing now: five robust scales of the last sixty changes that were committed. A model that still
    learns swings more, and is given more room, than one that is level. The samples are looked at in a random order, a
    first few and then twice as many each time, until the verdict is clear.

    **An audit**, every so often and where a look gives reason to, compares the model with the anchor: the state
    at the first step, which moves up when the model has improved, and never down. So harm cannot add up in steps too
    small to see. What may be lost from the anchor is the tolerance, or what honest steps swung when it was taken if
    that was more, until the model is level and they swing less. Audits also look at samples that no other check sees.

    Of a model that does no better than chance there is nothing to lose, and nothing is refused.

    Args:
        name: the name in records.
        criteria: what counts as harm.
        source: measures.
        policy: when it checks, and how far it goes back.
    """

    def __init__(self, name: str, criteria: HarmCriteria, source: QualitySource, policy: CheckPolicy) -> None:
        import scipy.stats  # noqa: F401 (a second: now, and not in the first step that is judged)

        self.name = name
        self._criteria = criteria
        self._policy = policy
        self._measure = ProbeMeasurement(name, source)
        self._comparison = ProbeComparison(criteria)
        self._check = StepCheck(criteria, self._measure)
        self._audit = Audit(criteria, self._measure, policy.max_rewind)
        self._seed = secrets.randbits(32) if policy.seed is None else policy.seed
        self._order: RowOrder | None = None
        self._classes: list[int] = []
        self._memory = CheckMemory()
        self._age = ProbeAge()
        # What was measured for the step that is being made: `observe` goes on from it.
        self._start: tuple[int, Anchor] | None = None
        self._seen: Seen | None = None
        self._struck: set[int] = set()
        self._version: object = None

    @property
    def probe(self) -> Batch | None:
        """The trusted samples, where there are some."""
        return self._measure.probe

    @property
    def max_rewind(self) -> int:
        """The maximum number of steps it goes back."""
        return self._policy.reach

    @property
    def reset_momentum_after(self) -> int:
        """Consecutive refusals after which the learner zeros the momentum; 0 for never."""
        return self._policy.reset_momentum_after

    @property
    def rewind_outcomes(self) -> int:
        """In how many ways a refusal can turn out."""
        return self._policy.max_rewind + 1

    @property
    def phase(self) -> str:
        """What the model does, in words: learns, is level, drifts, or that it is too early to say."""
        return self._memory.phase

    @property
    def held_out(self) -> int:
        """Samples that audits alone look at."""
        return 0 if self._order is None else len(self._order.held_out)

    @property
    def held_out_refusals(self) -> int:
        """Refusals by those samples."""
        return self._memory.holdout_refusals

    @property
    def advice(self) -> str:
        """What there is to say of the trusted samples by now; empty for nothing."""
        return self._age.advice

    def replace_source(self, source: QualitySource) -> None:
        """Measures by another source. The model before the next step is the new anchor.

        The owner vouches for the present model: harm done before is not held against later updates. How much honest
        steps swing is remembered.
        """
        self._measure.replace(source)
        self._order = self._start = None
        self._memory.forget_measured()
        self._age = ProbeAge()

    def expect_learning(self) -> None:
        """Takes the model for one that has only begun to learn, though it may do better than chance by the first check:
        nothing is known of how much its steps swing, nor is what was once better than chance much to lose."""
        self._policy = replace(self._policy, young=True)

    def check_model(self, view: View) -> None:
        """Checks that trusted samples, task and model fit together.

        Raises:
            BatchError, ModelError, LabelError: when the model cannot take the probe, or has no output for a label.
            GuardError: when a measurement of the model is NaN or infinite.
        """
        measured = self._measure.check_model(view)
        self._criteria.check_quantities(measured)
        source = self._measure.source
        self._criteria.prepare(source.classes(), source.words)
        if self._memory.anchor is not None:
            _check_classes(self._classes, self._criteria.labels)
        if self._criteria.labels != self._classes:
            self._memory.swings.forget_classes(1 + self._criteria.classes)
            self._memory.struck = {}
        self._classes = list(self._criteria.labels)
        self._seed = view.ranks.gather("the order of the probe", self._seed)[0]
        sizes = {len(rows) for rows in measured.values()}
        self._order = RowOrder(
            min(sizes),
            self._seed,
            classes=None if self._criteria.codes is None else self._criteria.codes.tolist(),
            selectable=source.selectable and len(sizes) == 1,
            whole=self._policy.check_every > 1,
            device=next(iter(measured.values())).device,
        )

    def __call__(self, change: CandidateUpdate) -> Verdict:
        """Looks at the probe after the update, if a check is due, and undoes the update if it did harm."""
        if self._order is None:
            self.check_model(change.before)
        if not change.attempt:
            self._struck = set()  # of a step that came to no end
        checked = self._last_check(change)
        if not self._policy.is_due(change, checked, alerted=self._memory.alerted > 0):
            return COMMIT
        verdict = self._judged(change, checked)
        if "class" in verdict.evidence:
            self._struck.add(self._criteria.code_of(verdict.evidence["class"]))
        return verdict

    def observe(self, record: StepRecord, view: View) -> None:
        """Remembers what the check has seen, and moves the anchor up if the model has improved."""
        memory, verdict = self._memory, record.verdict
        anchor = self._start_memory(record, view) if memory.anchor is None else memory.anchor
        seen = self._seen if self._seen is not None and self._seen.version is view.state_version else None
        gain = None if seen is None else seen.gain
        if memory.floor is None:  # what a model costs that was harmed tells nothing of the trusted samples
            self._age.observe(record, self.name, anchor.measured, gain, young=anchor.young)
        if seen is None and verdict.committed and not record.trusted:
            seen = self._seen_by_itself(view)
        update = MemoryUpdate(memory, self._policy, self._criteria, self._measure)
        update(record, view, seen, refused=verdict.stage == self.name)
        for code in sorted(self._struck):
            memory.was_struck(code, self._policy.alert_steps)
        # A long look of which nothing came would be one again with the same first samples.
        unlucky = self._seen is not None and self._seen.long
        if self._order is not None and (unlucky or self._order.ends_block(record.step)):
            memory.block += 1
        self._seen, self._struck, self._version = None, set(), view.state_version

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, the classes and the seed of the order, and how old the trusted samples are."""
        own = {"classes": self._classes, "seed": self._seed, "age": self._age.state_dict()}
        return {**self._memory.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what was measured.

        Raises:
            CheckpointError: when it was measured on a probe of another size or with other classes; nothing has been
                loaded then. Of classes that no model has shown yet `check_model` raises it.
        """
        memory, age, seed = CheckMemory.from_state(state), ProbeAge(), state["seed"]
        age.load_state_dict(state["age"])
        self._measure.check_saved(memory.measured)
        if self._order is not None and memory.anchor is not None:
            _check_classes(state["classes"], self._criteria.labels)
        else:
            self._classes = list(state["classes"])  # compared once the model is known
        self._memory, self._age = memory, age
        self._start, self._seen, self._struck, self._version = None, None, set(), None
        if seed != self._seed:
            self._seed = seed
            if self._order is not None:
                self._order = self._order.reseeded(seed)

    def _last_check(self, change: CandidateUpdate) -> LastCheck:
        """The last check; before the first step, one of the model as it was before the update."""
        checked = self._memory.checked
        if checked is None:
            anchor = self._new_anchor(change.before)
            self._start = (change.step, anchor)
            return self._check_before(change.step, anchor)
        if checked.step > change.step:
            raise GuardError(
                f"{self.name}: got step {change.step} of a learner after a check before step {checked.step}: this "
                "guard has watched another learner; wanted a new guard, or new trusted data (Guard.set_trusted_data)"
            )
        return checked

    def _judged(self, change: CandidateUpdate, checked: LastCheck) -> Verdict:
        """By a check of the update, and an audit if one is due or in doubt."""
        assert self._order is not None
        memory = self._memory
        anchor = self._start[1] if memory.anchor is None and self._start is not None else memory.anchor
        assert anchor is not None
        baseline = Baseline.of(change, anchor, checked, memory)
        due = self._order.whole or memory.unaudited >= self._order.samples
        if due:
            self._measure(change.after)  # at once what the audit needs, of which the looks are a part
        found = self._check(change, baseline, self._order.looks(memory.block, memory.classes_struck), due=due)
        if found.verdict is not None:
            return found.verdict
        fallen, below = None, baseline.below
        if found.audit or found.doubted:
            verdict, fallen = self._audit(change, baseline, self._order)
            if not verdict.committed:
                return verdict
            below = bool(verdict.reason)
        self._seen = Seen(change.after.state_version, found.sums, found.looks, fallen, found.doubted, below, found.gain)
        if below:
            return Verdict(reason=BELOW, evidence={"below": 1.0})
        return Verdict(reason=memory.phase if anchor.trained else UNTRAINED)

    def _start_memory(self, record: StepRecord, view: View) -> Anchor:
        """The first anchor: the state before the first step, or the present one if that was not measured."""
        if self._start is not None and self._start[0] == record.step:
            anchor = self._start[1]
        else:
            if self._order is None:
                self.check_model(view)
            anchor = self._new_anchor(view)
        self._memory.anchor = anchor
        self._memory.checked = self._check_before(record.step, anchor)
        return anchor

    def _check_before(self, step: int, anchor: Anchor) -> LastCheck:
        return LastCheck(step, anchor.measured if self._policy.keeps_measured else None)

    def _new_anchor(self, view: View) -> Anchor:
        measured = self._measure.reference(view)
        return Anchor.of(measured, self._criteria, self._memory.swings, young=self._policy.young)

    def _seen_by_itself(self, view: View) -> Seen | None:
        """What a check would have seen, for a gate that watches steps that another one judges."""
        if self._order is None or self._policy.check_every > 1:
            return None
        samples = self._order.looks(self._memory.block, self._memory.classes_struck)[0]
        before = self._measure.known_of(self._version, samples.rows)
        if before is None:
            return None
        return Seen(view.state_version, self._comparison.drops(before, self._measure.at(view, samples.rows), samples))


def _check_classes(saved: Sequence[int], own: Sequence[int]) -> None:
    """That what was measured by class is of these classes.

    Raises:
        CheckpointError: otherwise.
    """
    if list(saved) != list(own):
        raise CheckpointError(
            f"got the state of a gate that tests {_named(saved)}, wanted {_named(own)}: build the guard with the probe "
            "and the class_tolerance that it had"
        )


def _named(classes: Sequence[int]) -> str:
    if not classes:
        return "no classes"
    few = ", ".join(map(str, classes[:5]))
    return f"the {len(classes)} classes {few}{', ...' if len(classes) > 5 else ''}"
