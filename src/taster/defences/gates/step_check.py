"""A check of one update: one look after the other at the trusted samples, until the verdict is clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taster.core.guard import CandidateUpdate
from taster.core.verdict import Verdict
from taster.defences.gates.anchor import is_above_chance
from taster.defences.gates.anchor_limits import anchor_limits
from taster.defences.gates.anchor_test import leaves_floor, seems_fallen
from taster.defences.gates.baseline import Baseline
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.probe_comparison import Look, ProbeComparison, samples_of
from taster.defences.gates.probe_measurement import ProbeMeasurement, at_rows
from taster.defences.gates.quantities import Sums, watched
from taster.defences.gates.row_order import LookRows
from taster.defences.gates.step_test import any_drop, step_evidence
from taster.defences.gates.undo import undo, undo_nonfinite
from taster.stats.paired_sums import PairedSums

_STRICT = 512
"""Samples that an update is judged by at least which may cost little or nothing: any of a model below its anchor, and a
part of a refused batch."""


@dataclass(frozen=True)
class StepOutcome:
    """What a check of an update has found.

    Attributes:
        verdict: where it is clear without an audit; None else.
        sums: drops since the last check, of the samples looked at.
        looks: how many looks it took.
        audit: whether an audit is due: as it was before, or as a model that did no better than chance now does.
        doubted: whether what was looked at is reason for an audit.
        gain: by how much the loss of the first samples looked at is lower than at the anchor; None without a loss.
    """

    verdict: Verdict | None
    sums: dict[str, PairedSums]
    looks: int
    audit: bool
    doubted: bool
    gain: float | None


class StepCheck:
    """Judges an update against the last check.

    Args:
        criteria: what counts as harm.
        measure: measures states of the model.
    """

    def __init__(self, criteria: HarmCriteria, measure: ProbeMeasurement) -> None:
        self._criteria = criteria
        self._measure = measure
        self._comparison = ProbeComparison(criteria)

    def __call__(
        self, change: CandidateUpdate, baseline: Baseline, looks: Sequence[LookRows], *, due: bool
    ) -> StepOutcome:
        """Looks until the verdict is clear.

        Args:
            change: the update.
            baseline: what it is compared with.
            looks: the samples of each look.
            due: whether an audit follows anyway.
        """
        anchor, below = baseline.anchor, baseline.below
        sums: dict[str, PairedSums] = {}
        strict, doubted, gain = change.attempt > 0 or below, False, None
        fallen: dict[str, PairedSums] = {}
        number = 0

        def outcome(verdict: Verdict | None = None) -> StepOutcome:
            return StepOutcome(verdict, sums, number, due, doubted, gain)

        for number, samples in enumerate(looks, 1):
            look = self._look(change, baseline, samples)
            fallen = _sum(fallen, look.fallen or {})
            if look.nonfinite:
                broken = undo_nonfinite(change, baseline.last_good, self._measure(change.after))
                if broken is not None:
                    return outcome(broken)
            sums = _sum(sums, look.drops)
            if number == 1 and not below and "loss" in fallen:
                gain = fallen["loss"].drop()
            if number == 1 and not anchor.trained:
                # There is nothing to lose; an audit tells when there is.
                due = due or is_above_chance(look.right, int(samples_of(look.drops)), self._criteria.chance)
                break
            if not due and not below:
                doubted = doubted or self._is_doubtful(fallen, sums, baseline)
            evidence, clear = step_evidence(
                self._criteria,
                sums,
                None if anchor.young else anchor.scales,
                baseline.swings,
                suspect=baseline.suspect,
                last=number == len(looks),
            )
            if evidence is not None:
                return outcome(undo(change, baseline.last_good, evidence.reason, evidence.numbers))
            if clear and (not strict or samples_of(sums) >= _STRICT):
                break
        if anchor.trained and change.attempt and (part := any_drop(self._criteria, sums)) is not None:
            return outcome(undo(change, baseline.last_good, part.reason, part.numbers))
        if below:
            doubted = leaves_floor(self._criteria, fallen, anchor.scales, baseline.swings)
        return outcome()

    def _look(self, change: CandidateUpdate, baseline: Baseline, samples: LookRows) -> Look:
        """Beside the last check, and beside the anchor or, of a model that is below it, the floor."""
        after = self._measure.at(change.after, samples.rows)
        checked = baseline.checked
        before = self._measure.at(change.before, samples.rows) if checked is None else at_rows(checked, samples.rows)
        reference = baseline.floor if baseline.below else baseline.anchor.measured
        return self._comparison.look(before, after, reference, samples)

    def _is_doubtful(self, fallen: Sums, sums: Sums, baseline: Baseline) -> bool:
        """Whether what was looked at is reason for an audit: the model seems to have fallen from the anchor, overall or
        in a class, or the drops of the steps since the last audit, and of this one, add up to what may be lost."""
        anchor, swings = baseline.anchor, baseline.swings
        scales = anchor.scales
        if seems_fallen(self._criteria, fallen, scales, swings, classes=not anchor.young):
            return True
        name = watched(sums)[0]
        limit = float(anchor_limits(self._criteria, name, sums[name].groups, scales, swings)[0])
        return baseline.lost.plus(sums[name]).exceeds(limit)


def _sum(sums: dict[str, PairedSums], more: dict[str, PairedSums]) -> dict[str, PairedSums]:
    """Of the samples looked at before, and those of one more look."""
    return {name: sums[name] + drops for name, drops in more.items()} if sums else more
