"""The tests against the anchor: whether a model has fallen from it, has risen above it, or may be gone back to."""

from __future__ import annotations

from dataclasses import replace

from taster.defences.gates.anchor_limits import anchor_limits
from taster.defences.gates.harm_criteria import REFERENCES, Evidence, HarmCriteria
from taster.defences.gates.quantities import Sums, anchored, quantities, watched
from taster.defences.gates.step_test import DOUBT
from taster.defences.gates.swings import Scales, Swings


def fallen(
    criteria: HarmCriteria,
    sums: Sums,
    frozen: Scales,
    swings: Swings,
    *,
    below: bool = False,
    classes: bool = True,
) -> list[Evidence]:
    """Evidence that quantities have fallen from the anchor's; of a model that was below it, that they still are by half
    as much; class by class too, or overall alone."""
    found = []
    names = quantities(sums)
    # New data costs a model confidence in the old before it pays in accuracy; in the loss it pays at once, and a
    # loss that falls is a drop. In a class whose own loss has risen nothing was paid until accuracy has grown.
    loss = sums.get("loss") if len(names) > 1 else None
    pays = loss is not None and loss.pvalue() < criteria.alpha / (REFERENCES * len(names))
    paid = pays and sums[names[0]].gain_pvalue() < criteria.alpha
    for name in names:
        drops = sums[name]
        limits = anchor_limits(criteria, name, drops.groups, frozen, swings) / (2 if below else 1)
        for group in range(drops.groups if classes else 1):
            drop, limit = drops.drop(group), float(limits[group])
            excused = name != names[0] and pays and (group == 0 or paid or (loss is not None and loss.drop(group) > 0))
            if drop > limit and not excused:
                p = drops.pvalue(group)
                if p < criteria.alpha_of_group(drops, group, len(names)):
                    found.append(criteria.evidence(name, group, drop, limit, p, audited=True))
    return found


def fallen_held_out(criteria: HarmCriteria, sums: Sums, frozen: Scales, swings: Swings) -> list[Evidence]:
    """The same on samples that no other check sees: of the quantity that the promise is about, overall."""
    for name in anchored(sums):
        drops = sums[name]
        limit = float(anchor_limits(criteria, name, drops.groups, frozen, swings)[0])
        p = drops.pvalue()
        if drops.drop() > limit and p < criteria.alpha_held_out:
            found = criteria.evidence(name, 0, drops.drop(), limit, p, audited=True)
            return [replace(found, numbers={**found.numbers, "held_out": 1.0})]
    return []


def seems_fallen(criteria: HarmCriteria, sums: Sums, frozen: Scales, swings: Swings, *, classes: bool) -> bool:
    """Whether a look is reason enough for an audit: overall, or by class as well; what is new is learned at a price."""
    for name in quantities(sums):
        drops = sums[name]
        limits = anchor_limits(criteria, name, drops.groups, frozen, swings)
        if drops.drop() > limits[0] and drops.pvalue() < DOUBT:
            return True
        # Each class by itself: of the few samples of one in a look no stricter test could ever say anything.
        tested = range(1, drops.groups) if classes and not drops.gain_pvalue() < criteria.alpha else ()
        if any(drops.drop(group) > limits[group] and drops.pvalue(group) < DOUBT for group in tested):
            return True
    return False


def falls_on(criteria: HarmCriteria, evidence: Evidence, sums: Sums, frozen: Scales, swings: Swings) -> bool:
    """Whether what has fallen has fallen further, by drops from when that was found: half as far as it may from the
    anchor."""
    drops = sums[evidence.quantity]
    limit = float(anchor_limits(criteria, evidence.quantity, drops.groups, frozen, swings)[evidence.group])
    return drops.drop(evidence.group) > limit / 2 and drops.pvalue(evidence.group) < DOUBT


def leaves_floor(criteria: HarmCriteria, sums: Sums, frozen: Scales, swings: Swings) -> bool:
    """Whether a look is reason enough for an audit of a model below its anchor: it seems to have fallen on, overall or
    in a class, by drops from the floor."""
    return any(
        drops.drop(group) > limit / 2 and drops.pvalue(group) < DOUBT
        for name, drops in sums.items()
        if name != "loss"
        for group, limit in enumerate(anchor_limits(criteria, name, drops.groups, frozen, swings))
    )


def acceptable(criteria: HarmCriteria, sums: Sums) -> bool:
    """Whether a state is good enough to go back to: no more than half the tolerance below the anchor."""
    return all(sums[name].drop() <= float(criteria.least(name, 1)[0]) / 2 for name in anchored(sums))


def grown(criteria: HarmCriteria, sums: Sums) -> list[str]:
    """The quantities that have significantly grown, by sums of drops from the anchor: those by which it moves up, a
    task's first one or each of independent ones."""
    names = anchored(sums)
    alpha = criteria.alpha / (max(1, sums[names[0]].groups) * len(names))
    return [name for name in names if sums[name].gain_pvalue() < alpha]


def drifting(criteria: HarmCriteria, sums: Sums) -> bool:
    """Whether there is evidence of any drop from the anchor."""
    return any(sums[name].pvalue() < criteria.alpha for name in watched(sums))
