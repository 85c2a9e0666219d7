"""The tests of one update against the last check: a drop that swings more than honest updates do is harm."""

from __future__ import annotations

import numpy as np

from taster.defences.gates.anchor_limits import anchor_limits
from taster.defences.gates.harm_criteria import Evidence, HarmCriteria
from taster.defences.gates.quantities import Sums, quantities, watched
from taster.defences.gates.swings import Scales, Swings

DOUBT = 0.02
"""The p-value of a drop beyond its limit from which on it is looked into."""

_LOOKS = 8
"""Looks at the probe that the alpha of a step's tests is shared out over; twice as many samples each time."""

_SURE = 2.33
"""Standard errors within which a drop lies with 99 %."""

_SUSPECT = 0.6
"""The part of the usual limit that is enough where the batch itself is an outlier by its loss."""


def step_evidence(
    criteria: HarmCriteria,
    sums: Sums,
    frozen: Scales | None,
    swings: Swings,
    *,
    suspect: bool,
    last: bool,
) -> tuple[Evidence | None, bool]:
    """Whether what was seen of an update is evidence of harm, and whether it is clear without a further look.

    Of two quantities of one task less of the last is harm: of the probability of the true class, in which harm shows on
    fewer samples, and which swings less, than in accuracy.

    Args:
        criteria: what counts as harm.
        sums: the drops since the last check, of the samples looked at so far.
        frozen: the scales of the anchor: no step may cost more than may be lost from the anchor, so that nobody gains
            by widening the swing. None for a model that has begun to learn only now.
        swings: of the changes before.
        suspect: whether the batch is an outlier among the last ones by its loss; then less is harm.
        last: whether there is no further look.
    """
    clear = True
    names = quantities(sums)
    for name in names:
        drops = sums[name]
        least = criteria.least(name, drops.groups)
        share = _SUSPECT if suspect else 1.0
        half = 0.5 if name in watched(sums) else 1.0
        worth = np.concatenate([half * least[:1], least[1:]])
        # One class may be lost for a while by who begins to learn the others.
        unknown = least if frozen is not None else np.concatenate([least[:1], np.full_like(least[1:], np.inf)])
        limits = swings.limits(name, worth, unknown, share)
        if frozen is not None:
            limits = np.minimum(limits, anchor_limits(criteria, name, drops.groups, frozen, swings))
        for group in range(drops.groups):
            limit, drop = float(limits[group]), drops.drop(group)
            if drop > limit:
                if group and drops.gain_pvalue() < criteria.alpha:
                    break  # what is new is learned at a price
                p = drops.pvalue(group)
                if p < criteria.alpha_of_group(drops, group, len(names)) / _LOOKS:
                    return criteria.evidence(name, group, drop, limit, p, audited=False), True
                clear = clear and p > (DOUBT if group == 0 else criteria.alpha / drops.groups)
            if group == 0 and name in watched(sums):
                clear = clear and drop + _SURE * drops.error() <= max(limit, float(least[0]))
    return None, clear or last


def any_drop(criteria: HarmCriteria, sums: Sums) -> Evidence | None:
    """A drop of any size, significant or not: for updates that get no benefit of the doubt. Of two quantities of one
    task by the last, which hardly ever stays the same where the first counts; of independent ones by any."""
    for name in watched(sums):
        drop = sums[name].drop()
        if drop > 0:
            return criteria.evidence_of_part(name, drop)
    return None
