"""What gates on trusted samples share: when they look and how far, what they remember, and how far they go back."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

from taster.core.guard import CandidateUpdate
from taster.core.host import to_host
from taster.core.types import COMMIT, Batch, StepRecord, Tensors, Verdict
from taster.core.view import View
from taster.defences.gates.probe_age import ProbeAge
from taster.defences.gates.probe_measurement import ProbeMeasurement, at_rows, nonfinite, nonfinite_counts
from taster.defences.gates.quality_sources import QualitySource
from taster.defences.gates.quality_test import QualityTest, Swings, anchored, independent, quantities, watched
from taster.defences.gates.row_order import FIRST, RowOrder
from taster.defences.gates.undo import undo
from taster.errors import GuardError
from taster.stats.paired_sums import PairedSums, sums_by_name, sums_on_device
from taster.stats.swing import Swing

_OUTLIER = 4.0
"""Standard errors above the trusted samples' mean loss, and scales above those of the last batches, from which a
batch's loss is an outlier."""

_AUDIT_SHARE = 0.1
"""Of the work of a step, what audits may take on average; a sample learned from is three forward passes of one."""

_CHANCE = 1e-3
"""The p-value of an accuracy above chance from which on a model has something to lose."""

_STRICT = 512
"""Samples that an update is judged by at least which may cost little or nothing: any of a model below its anchor, and a
part of a refused batch."""

_LOST = 2.5
"""Standard errors of the drops of several steps from which on they are looked into."""

_RECENT = 60
"""Checks after which an anchor that has not moved up says that the model is level."""

LEARNING = "watching: the model is still learning"
LEVEL = "watching: the model is level"
DRIFTING = "watching: the model is drifting away from the anchor"
BELOW = "watching: the model has fallen below the anchor, with no way back; until it has risen less may be lost"
UNTRAINED = "watching: the model does no better than chance yet"


@dataclass(frozen=True)
class CheckPolicy:
    """When a gate checks, and how far it goes back.

    Attributes:
        check_every: steps between checks.
        check_on_loss_outlier: whether it checks at once after a batch with an outlying loss.
        max_rewind: the maximum number of steps by which a drift from the anchor is undone; 0 undoes the update alone.
        alert_steps: steps after a refusal in which every step is checked.
        reset_momentum_after: consecutive refusals after which the learner zeros the momentum; 0 for never.
        seed: of the order in which samples are looked at; None takes one that nobody knows.
        young: whether the model has only begun to learn, though it does better than chance.
    """

    check_every: int = 1
    check_on_loss_outlier: bool = True
    max_rewind: int = 0
    alert_steps: int = 20
    reset_momentum_after: int = 2
    seed: int | None = None
    young: bool = False


@dataclass(frozen=True, eq=False)
class _Anchor:
    """The state that later ones are held to.

    Attributes:
        measured: of all samples.
        scales: how much honest steps swung when it was taken.
        trained: whether it does better than chance.
        since: checks since it was taken or moved up.
        moved: whether it ever moved up.
        young: whether the model did no better than chance when the gate was made, and has not been level since: its
            steps swing more as it learns, and nothing is known of how much is too much.
    """

    measured: Tensors
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    trained: bool = True
    since: int = 0
    moved: bool = False
    young: bool = False


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a check has seen of an update.

    Attributes:
        version: of the state after it.
        sums: drops since the last check, of the samples looked at.
        looks: how many looks it took.
        fallen: drops from the anchor of all samples that are not held out, where they were audited.
        doubted: whether an audit was made because the first look was reason to.
        below: whether the model is below its anchor and there is no way back.
        gain: by how much the loss of the first samples looked at is lower than at the anchor; None without a loss.
    """

    version: object
    sums: dict[str, PairedSums]
    looks: int = 1
    fallen: dict[str, PairedSums] | None = None
    doubted: bool = False
    below: bool = False
    gain: float | None = None


@dataclass(frozen=True)
class _Lost:
    """What committed steps have lost together since they last had lost nothing, as far as first looks can tell."""

    drop: float = 0.0
    variance: float = 0.0

    def plus(self, sums: PairedSums) -> _Lost:
        """With one more step."""
        drop, error = self.drop + sums.drop(), sums.error()
        return _Lost(drop, self.variance + error**2) if drop > 0 and math.isfinite(error) else _Lost()

    def exceeds(self, limit: float) -> bool:
        """Whether it is more than a limit, and more than chance."""
        return self.drop > max(limit, _LOST * math.sqrt(self.variance))


class ReferenceGate:
    """Judges the model on trusted samples, against the last check and against an anchor.

    **A step** is harm where a quantity drops by more than chance allows, by more than half the tolerance, and by more
    than honest steps swing now: five robust scales of the last sixty changes that were committed. A model that still
    learns swings more, and is given more room, than one that is level. The samples are looked at in a random order, a
    first few and then twice as many each time, until the verdict is clear.

    **An audit**, every so often and where a first look gives reason to, compares the model with the anchor: the state
    at the first step, which moves up when the model has improved, and never down. So harm cannot add up in steps too
    small to see. What may be lost from the anchor is the tolerance, or what honest steps swung when it was taken if
    that was more, until the model is level and they swing less. Audits also look at samples that no other check sees.

    Of a model that does no better than chance there is nothing to lose, and nothing is refused.

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
        self._order: RowOrder | None = None
        self._seed = secrets.randbits(32) if policy.seed is None else policy.seed
        self._anchor: _Anchor | None = None
        self._swings = Swings()
        self._losses = Swing.empty(1)  # of the batches that were committed, not their changes
        self._checked: tuple[int, Tensors | None] | None = None
        self._block = 0
        self._unaudited = 0.0  # forward passes that audits may take by now
        self._unchecked = 0  # committed steps since the last check
        self._alerted = 0  # steps left of the alert
        self._phase = ""
        self._holdout_refusals = 0
        self._floor: Tensors | None = None  # what a model measured that was found below its anchor, with no way back
        self._lost = _Lost()
        self._age = ProbeAge()
        # What was measured for the step that is being made: `observe` goes on from it.
        self._start: tuple[int, _Anchor] | None = None
        self._seen: _Seen | None = None
        self._version: object = None

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

    @property
    def phase(self) -> str:
        """What the model does: learns, is level, drifts; empty before the first audit."""
        return self._phase

    @property
    def held_out(self) -> int:
        """Samples that audits alone look at."""
        return 0 if self._order is None else len(self._order.held_out)

    @property
    def held_out_refusals(self) -> int:
        """Refusals by those samples."""
        return self._holdout_refusals

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
        self._order = self._anchor = self._start = self._checked = None
        self._unchecked = self._alerted = 0
        self._floor, self._unaudited, self._lost = None, 0.0, _Lost()
        self._holdout_refusals = 0
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
        self._test.check_quantities(measured)
        source = self._measure.source
        labels = self._test.labels
        self._test.prepare(source.classes(), source.words)
        if self._test.labels != labels:
            self._swings.forget_classes(1 + self._test.classes)
        self._seed = view.ranks.gather("the order of the probe", self._seed)[0]
        sizes = {len(rows) for rows in measured.values()}
        self._order = RowOrder(
            min(sizes),
            self._seed,
            selectable=source.selectable and len(sizes) == 1,
            whole=self._policy.check_every > 1,
            device=next(iter(measured.values())).device,
        )

    def __call__(self, change: CandidateUpdate) -> Verdict:
        """Looks at the probe after the update, if a check is due, and undoes the update if it did harm."""
        if self._order is None:
            self.check_model(change.before)
        checked = self._last_check(change)
        if not self._wants_check(change, checked):
            return COMMIT
        return self._judged(change, checked)

    def observe(self, record: StepRecord, view: View) -> None:
        """Remembers what the check has seen, and moves the anchor up if the model has improved."""
        verdict = record.verdict
        if self._anchor is None:
            self._anchor = self._first_anchor(record, view)
            self._checked = (record.step, self._kept(self._anchor.measured))
        seen = self._seen if self._seen is not None and self._seen.version is view.state_version else None
        gain = None if seen is None else seen.gain
        self._age.observe(record, self.name, self._anchor.measured, gain, young=self._anchor.young)
        refused = verdict.stage == self.name
        self._alerted = self._policy.alert_steps if refused else max(0, self._alerted - 1)
        self._unaudited += _AUDIT_SHARE * 3 * (record.samples or FIRST // 2)
        if refused and verdict.evidence.get("held_out"):
            self._holdout_refusals += 1
        if verdict.steps:
            self._floor = None
        elif refused and verdict.evidence.get("below") and self._floor is None:
            self._floor = self._measure.reference(view)
        if refused and verdict.evidence.get("audited"):
            self._unaudited, self._lost = 0.0, _Lost()
        if record.trusted and verdict.committed:
            self._floor = None
            self._anchor = self._new_anchor(self._measure.reference(view))
            self._alerted, self._unaudited, self._lost = 0, 0.0, _Lost()
            self._was_checked(record.step + 1, view)
        elif verdict.steps:
            self._was_checked(record.step + 1, view)
        elif verdict.committed:
            self._observe_commit(record, view, seen or self._seen_by_itself(view))
        elif not self._unchecked and self._checked is not None:
            self._checked = (record.step + 1, self._checked[1])
        if self._order is not None and (self._seen_long() or self._order.ends_block(record.step)):
            self._block += 1
        self._seen, self._version = None, view.state_version

    def state_dict(self) -> dict[str, Any]:
        """What was measured at the anchor and at the last check, how much steps swing, and counts."""
        anchor, checked = self._anchor, self._checked
        return {
            "anchor": None
            if anchor is None
            else {
                "measured": anchor.measured,
                "scales": dict(anchor.scales),
                "trained": anchor.trained,
                "since": anchor.since,
                "moved": anchor.moved,
                "young": anchor.young,
            },
            "checked": None if checked is None else {"step": checked[0], "measured": checked[1]},
            "swings": self._swings.state_dict(),
            "losses": self._losses.changes,
            "seed": self._seed,
            "block": self._block,
            "unaudited": self._unaudited,
            "unchecked": self._unchecked,
            "alerted": self._alerted,
            "phase": self._phase,
            "holdout_refusals": self._holdout_refusals,
            "floor": self._floor,
            "lost": [self._lost.drop, self._lost.variance],
            "age": self._age.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what was measured.

        Raises:
            CheckpointError: when it was measured on a probe of another size; nothing has been loaded then.
        """
        anchor, checked = state["anchor"], state["checked"]
        measured = [] if anchor is None else [anchor["measured"]]
        measured += [] if checked is None or checked["measured"] is None else [checked["measured"]]
        measured += [] if state["floor"] is None else [state["floor"]]
        self._measure.check_saved(measured)
        self._anchor = None if anchor is None else _Anchor(**anchor)
        self._checked = None if checked is None else (checked["step"], checked["measured"])
        self._swings.load_state_dict(state["swings"])
        self._losses = Swing(state["losses"])
        if state["seed"] != self._seed:
            self._seed = state["seed"]
            if self._order is not None:
                self._order = self._order.reseeded(self._seed)
        self._block, self._unaudited = state["block"], state["unaudited"]
        self._unchecked, self._alerted = state["unchecked"], state["alerted"]
        self._phase, self._holdout_refusals, self._floor = state["phase"], state["holdout_refusals"], state["floor"]
        self._age.load_state_dict(state["age"])
        self._lost = _Lost(*state["lost"])

    def _last_check(self, change: CandidateUpdate) -> tuple[int, Tensors | None]:
        """The last check; before the first step, one of the model as it was before the update."""
        if self._checked is None:
            self._start = (change.step, self._new_anchor(self._measure.reference(change.before)))
            return change.step, self._kept(self._start[1].measured)
        if self._checked[0] > change.step:
            raise GuardError(
                f"{self.name}: got step {change.step} of a learner after a check before step {self._checked[0]}: this "
                "guard has watched another learner; wanted a new guard, or new trusted data (Guard.set_trusted_data)"
            )
        return self._checked

    def _wants_check(self, change: CandidateUpdate, checked: tuple[int, Tensors | None]) -> bool:
        if change.attempt or self._alerted or change.step + 1 - checked[0] >= self._policy.check_every:
            return True
        known = checked[1]
        return self._policy.check_on_loss_outlier and known is not None and _is_outlier(change, known.get("loss"))

    def _judged(self, change: CandidateUpdate, checked: tuple[int, Tensors | None]) -> Verdict:
        """One look after the other until the verdict is clear, and an audit if one is due or in doubt."""
        assert self._order is not None
        anchor = self._start[1] if self._anchor is None and self._start is not None else self._anchor
        assert anchor is not None
        last_good = checked[0] if self._unchecked else change.step
        due = self._order.whole or self._unaudited >= self._order.samples
        if due:
            self._measure(change.after)  # at once what the audit needs, of which the looks are a part
        looks = self._order.looks(self._block)
        sums: dict[str, PairedSums] = {}
        strict, suspect, doubted = change.attempt > 0 or self._floor is not None, self._is_suspect(change), False
        gain = None
        for number, rows in enumerate(looks):
            after = self._measure.at(change.after, rows)
            before = self._measure.at(change.before, rows) if checked[1] is None else at_rows(checked[1], rows)
            reference = at_rows(anchor.measured, rows) if number == 0 else None
            bad, drops, fallen, right = self._compared(before, after, reference, rows)
            if bad:
                return self._nonfinite(change, last_good, self._measure(change.after)) or COMMIT
            sums = {name: sums[name] + more for name, more in drops.items()} if sums else drops
            if fallen is not None and "loss" in fallen:
                gain = fallen["loss"].drop()
            if number == 0 and not anchor.trained:
                # There is nothing to lose; an audit tells when there is.
                due = due or _above_chance(right, int(_looked_at(drops)), self._test.chance)
                break
            if fallen is not None and not due and self._floor is None:
                doubted = self._test.seems_fallen(fallen, anchor.scales, self._swings) or self._has_lost(sums, anchor)
            last = number + 1 == len(looks)
            evidence, clear = self._test.step(
                sums,
                None if anchor.young else anchor.scales,
                self._swings,
                suspect=suspect,
                below=self._floor is not None,
                last=last,
            )
            if evidence is not None:
                return undo(change, last_good, evidence.reason, evidence.numbers)
            if clear and (not strict or _looked_at(sums) >= _STRICT):
                break
        audited, below = None, self._floor is not None
        if anchor.trained and change.attempt and (evidence := self._test.any_drop(sums)) is not None:
            return undo(change, last_good, evidence.reason, evidence.numbers)
        if due or doubted:
            verdict, audited = self._audited(change, last_good, anchor, checked[1])
            if not verdict.committed:
                return verdict
            below = bool(verdict.reason)
        self._seen = _Seen(change.after.state_version, sums, number + 1, audited, doubted, below, gain)
        return Verdict(reason=UNTRAINED if not anchor.trained else BELOW if below else self._phase)

    def _has_lost(self, sums: dict[str, PairedSums], anchor: _Anchor) -> bool:
        """Whether the drops of the steps since the last audit, and of this one, add up to what may be lost."""
        name = watched(sums)[0]
        limit = float(self._test.anchor_limits(name, sums, anchor.scales, self._swings)[0])
        return self._lost.plus(sums[name]).exceeds(limit)

    def _is_suspect(self, change: CandidateUpdate) -> bool:
        """Whether the batch's loss is an outlier among those of the last batches that were committed."""
        usual = self._losses.limit(np.array([-np.inf]), np.array([np.inf]), np.array([_OUTLIER]))
        return change.loss is not None and not change.loss <= usual[0]

    def _audited(
        self, change: CandidateUpdate, last_good: int, anchor: _Anchor, checked: Tensors | None
    ) -> tuple[Verdict, dict[str, PairedSums] | None]:
        """The verdict on the model beside the anchor, on all samples; and its drops on those that are not held out."""
        assert self._order is not None
        now = self._measure(change.after)
        found = self._nonfinite(change, last_good, now)
        if found is not None:
            return found, None
        open_sums = self._drops_at(anchor.measured, now, self._order.open)
        if not anchor.trained:
            return COMMIT, open_sums
        classes = self._swings.known or not anchor.young
        evidence = self._test.fallen(
            open_sums, anchor.scales, self._swings, below=self._floor is not None, classes=classes
        )
        if evidence is None and len(self._order.held_out):
            evidence = self._test.fallen_held_out(
                self._drops_at(anchor.measured, now, self._order.held_out), anchor.scales, self._swings
            )
        if evidence is None:
            return COMMIT, open_sums
        acceptable = self._newest_acceptable(change, anchor)
        if acceptable is not None:
            return undo(change, min(last_good, acceptable), evidence.reason, evidence.numbers), None
        # There is no way back. An update that does not add to what has fallen is not held to what came before it; and
        # one that does no more than that, until from there half the tolerance is lost.
        before = at_rows(self._measure(change.before) if checked is None else checked, self._order.open)
        further = self._drops(before, at_rows(now, self._order.open), self._order.open)
        if further[evidence.quantity].drop(evidence.group) <= 0 or (
            self._floor is not None
            and not self._test.falls_on(evidence, self._drops_at(self._floor, now, self._order.open))
        ):
            return Verdict(reason=BELOW), open_sums
        return undo(change, last_good, evidence.reason, {**evidence.numbers, "below": 1.0}), None

    def _newest_acceptable(self, change: CandidateUpdate, anchor: _Anchor) -> int | None:
        """The newest state within reach that is no more than half the tolerance below the anchor, the one before the
        update among them."""
        assert self._order is not None
        states = {change.step: change.before}
        if self._policy.max_rewind:
            reach = [s for s in change.before.snapshot_steps if 0 < change.step - s <= self._policy.max_rewind]
            states.update((step, change.before.at(step)) for step in reversed(reach))
        for step, state in states.items():
            past = self._measure(state) if step == change.step else self._measure.source.measure(state)
            drops = self._drops_at(anchor.measured, past, self._order.open)
            if self._test.acceptable(drops) and self._test.fallen(drops, anchor.scales, self._swings) is None:
                return step
        return None

    def _observe_commit(self, record: StepRecord, view: View, seen: _Seen | None) -> None:
        if seen is None and record.step + 1 - self._checked_step(record) < self._policy.check_every:
            self._unchecked += 1
            return
        if record.loss is not None and record.attempts <= 1:
            self._losses = self._losses.with_change(np.array([record.loss]), np.zeros(1))
        if seen is not None:
            for name in quantities(seen.sums):
                self._swings.append(name, seen.sums[name])
            self._lost = self._lost.plus(seen.sums[watched(seen.sums)[0]])
            if not seen.below:
                self._floor = None
            elif self._floor is None:
                self._floor = self._measure.reference(view)
            if seen.fallen is not None:
                self._observe_audit(seen.fallen, view)
            elif self._anchor is not None:
                self._anchor = replace(self._anchor, since=self._anchor.since + 1)
        self._was_checked(record.step + 1, view)

    def _observe_audit(self, fallen: dict[str, PairedSums], view: View) -> None:
        """Moves the anchor up where the model has improved, and says what it does now."""
        assert self._anchor is not None
        anchor, grown = self._anchor, self._test.grown(fallen)
        now = self._measure(view)
        if grown or not anchor.trained:
            measured = now if not independent(now) else {**anchor.measured, **{name: now[name] for name in grown}}
            scales = self._swings.scales() if anchor.young else self._test.narrowed(anchor.scales, self._swings, grown)
            self._anchor = _Anchor(measured, scales, self._trained(measured), 0, bool(grown), anchor.young)
        else:
            narrowed = self._test.narrowed(anchor.scales, self._swings)
            young = anchor.young and anchor.since < 2 * _RECENT
            self._anchor = replace(anchor, since=anchor.since + 1, scales=narrowed, young=young)
        anchor = self._anchor
        if not anchor.trained:
            self._phase = UNTRAINED
        elif anchor.moved and anchor.since < _RECENT:
            self._phase = LEARNING
        else:
            self._phase = DRIFTING if self._test.drifting(fallen) else LEVEL
        self._unaudited, self._lost = 0.0, _Lost()

    def _new_anchor(self, measured: Tensors) -> _Anchor:
        scales, trained = self._swings.scales(), self._trained(measured)
        first = self._test.first_scales(measured) if trained else {}
        return _Anchor(measured, {**first, **scales}, trained, young=self._policy.young or not trained)

    def _trained(self, measured: Tensors) -> bool:
        """Whether a model does better than chance, as far as one knows what that is."""
        if not self._test.chance:
            return True
        right = measured[anchored(measured)[0]].double()
        (mean,) = to_host(right.mean())
        return _above_chance(mean * len(right), len(right), self._test.chance)

    def _seen_by_itself(self, view: View) -> _Seen | None:
        """What a check would have seen, for a gate that watches steps that another one judges."""
        if self._order is None or self._policy.check_every > 1:
            return None
        rows = self._order.looks(self._block)[0]
        before = self._measure.known_of(self._version, rows)
        if before is None:
            return None
        return _Seen(view.state_version, self._drops(before, self._measure.at(view, rows), rows))

    def _first_anchor(self, record: StepRecord, view: View) -> _Anchor:
        """Of the state before the first step, or of the present one if that was not measured."""
        if self._start is not None and self._start[0] == record.step:
            return self._start[1]
        if self._order is None:
            self.check_model(view)
        return self._new_anchor(self._measure.reference(view))

    def _checked_step(self, record: StepRecord) -> int:
        return record.step if self._checked is None else self._checked[0]

    def _was_checked(self, step: int, view: View) -> None:
        """Counts the state before this step as checked."""
        self._checked = (step, self._measure.reference(view) if self._policy.check_every > 1 else None)
        self._unchecked = 0

    def _kept(self, measured: Tensors) -> Tensors | None:
        """What is kept of a checked state: nothing where the next check can measure the state itself."""
        return measured if self._policy.check_every > 1 else None

    def _seen_long(self) -> bool:
        """Whether the samples that a check begins with have given reason to look further, and nothing came of it."""
        return self._seen is not None and (self._seen.looks > 1 or self._seen.doubted)

    def _compared(
        self, before: Tensors, after: Tensors, reference: Tensors | None, rows: Tensor | slice
    ) -> tuple[bool, dict[str, PairedSums], dict[str, PairedSums] | None, float]:
        """Whether a measurement is not finite, the drops since the last check and from the anchor, and how many are
        right: all fetched at once."""
        codes, kinds = self._codes(rows), {name: values.dtype == torch.bool for name, values in before.items()}
        drops = sums_on_device(before, after, codes, self._test.classes)
        wanted = [nonfinite_counts(after).sum(), drops, after[anchored(after)[0]].double().sum()]
        if reference is not None:
            wanted.append(sums_on_device(reference, after, codes, self._test.classes))
        bad, found, right, *more = to_host(*wanted)
        fallen = sums_by_name(kinds, np.array(more[0])) if more else None
        return bad > 0, sums_by_name(kinds, np.array(found)), fallen, right

    def _drops_at(self, before: Tensors, after: Tensors, rows: Tensor | slice) -> dict[str, PairedSums]:
        return self._drops(at_rows(before, rows), at_rows(after, rows), rows)

    def _drops(self, before: Tensors, after: Tensors, rows: Tensor | slice) -> dict[str, PairedSums]:
        kinds = {name: values.dtype == torch.bool for name, values in before.items()}
        (found,) = to_host(sums_on_device(before, after, self._codes(rows), self._test.classes))
        return sums_by_name(kinds, np.array(found))

    def _codes(self, rows: Tensor | slice) -> Tensor | None:
        return None if self._test.codes is None else self._test.codes[rows]

    def _nonfinite(self, change: CandidateUpdate, last_good: int, measured: Tensors) -> Verdict | None:
        (bad,) = to_host(nonfinite_counts(measured).sum())
        found = nonfinite(measured) if bad else None
        return None if found is None else undo(change, last_good, f"after the update {found}")


def _looked_at(sums: Mapping[str, PairedSums]) -> float:
    return float(next(iter(sums.values())).count[0])


def _above_chance(right: float, samples: int, chance: float) -> bool:
    """Whether so many right answers are more than chance has."""
    return float(binom.sf(round(right) - 1, samples, chance)) < _CHANCE


def _is_outlier(change: CandidateUpdate, losses: Tensor | None) -> bool:
    """Whether a batch's loss is further above the trusted samples' than chance allows for its size."""
    if change.loss is None or losses is None or len(losses) < 2:
        return False
    losses = losses.double()
    mean, deviation = to_host(losses.mean(), losses.std())
    error = deviation / max(1, change.samples) ** 0.5
    if error == 0.0:  # a loss that is none of single samples
        return False
    return not change.loss <= mean + _OUTLIER * error
