"""An audit: the model beside the anchor, on all samples, and how far there is to go back where it has fallen."""

from __future__ import annotations

from taster.core.guard import CandidateUpdate
from taster.core.types import Tensors
from taster.core.verdict import COMMIT, Verdict
from taster.defences.gates.anchor import BELOW
from taster.defences.gates.anchor_test import acceptable, fallen, fallen_held_out, falls_on
from taster.defences.gates.baseline import Baseline
from taster.defences.gates.harm_criteria import Evidence, HarmCriteria
from taster.defences.gates.probe_comparison import ProbeComparison
from taster.defences.gates.probe_measurement import ProbeMeasurement
from taster.defences.gates.row_order import RowOrder
from taster.defences.gates.undo import undo, undo_nonfinite
from taster.stats.paired_sums import PairedSums

_LEARNED = 0.25
"""What of its lead over chance a model may lose that has only begun to learn, while nothing is known of its steps."""


class Audit:
    """Judges the model beside the anchor, on all samples.

    A model that has fallen goes back to the newest state that had not. Where no such state is within reach, an update
    passes that does not add to the fall, or that leaves it within half of what may be lost from the anchor of the
    floor: the state in which the model was found.

    Args:
        criteria: what counts as harm.
        measure: measures states of the model.
        max_rewind: the maximum number of steps by which a drift from the anchor is undone.
    """

    def __init__(self, criteria: HarmCriteria, measure: ProbeMeasurement, max_rewind: int) -> None:
        self._criteria = criteria
        self._measure = measure
        self._comparison = ProbeComparison(criteria)
        self._max_rewind = max_rewind

    def __call__(
        self, change: CandidateUpdate, baseline: Baseline, order: RowOrder
    ) -> tuple[Verdict, dict[str, PairedSums] | None]:
        """Measures the model, and decides.

        Args:
            change: the update.
            baseline: what it is compared with.
            order: which samples are held out.

        Returns:
            the verdict, which has a reason too where the update may stay though the model is below; and the drops from
            the anchor on the samples that are not held out, None of an update that is undone.
        """
        now = self._measure(change.after)
        anchor = baseline.anchor
        looks = self._comparison.looks(anchor.measured, now, order.parts)
        broken = undo_nonfinite(change, baseline.last_good, now) if any(look.nonfinite for look in looks) else None
        if broken is not None:
            return broken, None
        drops = looks[0].drops
        if not anchor.trained:
            return COMMIT, drops
        evidence = self._evidence(drops, [look.drops for look in looks[1:]], baseline)
        if not evidence:
            return COMMIT, drops
        first = evidence[0]
        back_to = self._newest_acceptable(first, change, baseline, order)
        if back_to is not None:
            return undo(change, min(baseline.last_good, back_to), first.reason, first.numbers), None
        # There is no way back.
        if self._may_pass(evidence, change, now, baseline, order):
            return Verdict(reason=BELOW, evidence={"below": 1.0}), drops
        return undo(change, baseline.last_good, first.reason, {**first.numbers, "below": 1.0}), None

    def _evidence(
        self, drops: dict[str, PairedSums], held_out: list[dict[str, PairedSums]], baseline: Baseline
    ) -> list[Evidence]:
        """That the model has fallen from the anchor, by the samples that are not held out or by those that are."""
        found = self._fallen(drops, baseline, below=baseline.below)
        if not found and held_out:
            found = self._fallen_held_out(held_out[0], baseline)
        return found

    def _fallen(self, drops: dict[str, PairedSums], baseline: Baseline, *, below: bool = False) -> list[Evidence]:
        """Of a model that has only begun to learn no class is held to the anchor: what was right by luck is lost again;
        nor, before one knows how much its steps swing, less than a part of what it has learned."""
        anchor, swings = baseline.anchor, baseline.swings
        found = fallen(self._criteria, drops, anchor.scales, swings, below=below, classes=not anchor.young)
        return [one for one in found if self._is_much(one, drops, baseline)]

    def _is_much(self, evidence: Evidence, drops: dict[str, PairedSums], baseline: Baseline) -> bool:
        anchor = baseline.anchor
        return not anchor.young or baseline.swings.known or drops[evidence.quantity].drop() > _LEARNED * anchor.lead

    def _fallen_held_out(self, drops: dict[str, PairedSums], baseline: Baseline) -> list[Evidence]:
        found = fallen_held_out(self._criteria, drops, baseline.anchor.scales, baseline.swings)
        return [one for one in found if self._is_much(one, drops, baseline)]

    def _newest_acceptable(
        self, evidence: Evidence, change: CandidateUpdate, baseline: Baseline, order: RowOrder
    ) -> int | None:
        """The newest state within reach that is no more than half the tolerance below the anchor, the one before the
        update among them; also by the samples that are held out, where those have shown that the model has fallen."""
        states = {change.step: change.before}
        if self._max_rewind:
            reach = [s for s in change.before.snapshot_steps if 0 < change.step - s <= self._max_rewind]
            states.update((step, change.before.at(step)) for step in reversed(reach))
        for step, state in states.items():
            past = self._measure(state) if step == change.step else self._measure.source.measure(state)
            parts = order.parts if evidence.held_out else [order.open]
            drops, *held_out = (look.drops for look in self._comparison.looks(baseline.anchor.measured, past, parts))
            lower = self._fallen(drops, baseline) or any(self._fallen_held_out(d, baseline) for d in held_out)
            if not lower and all(acceptable(self._criteria, d) for d in (drops, *held_out)):
                return step
        return None

    def _may_pass(
        self, evidence: list[Evidence], change: CandidateUpdate, now: Tensors, baseline: Baseline, order: RowOrder
    ) -> bool:
        """Whether a model may stay below its anchor: where an update adds to nothing that has fallen; where it does,
        until half of what may be lost from the anchor is lost from the floor."""
        rows = order.held_out if evidence[0].held_out else order.open
        before = self._measure(change.before) if baseline.checked is None else baseline.checked
        further = self._comparison.drops_at(before, now, rows)
        worse = [found for found in evidence if further[found.quantity].drop(found.group) > 0]
        if not worse:
            return True
        if baseline.floor is None:
            return False
        since = self._comparison.drops_at(baseline.floor, now, rows)
        scales, swings = baseline.anchor.scales, baseline.swings
        return not any(falls_on(self._criteria, found, since, scales, swings) for found in worse)
