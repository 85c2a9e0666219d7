"""How much of a class honest steps trade for another, as far as its accuracy tells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from taster.core.host import to_host
from taster.core.types import Tensors
from taster.defences.gates.anchor_limits import scales_of_limits
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.quantities import quantities
from taster.defences.gates.swings import Scales

_TRADED = 0.4
"""Standard deviations of one answer by which honest steps lead a class away from the anchor; measured on nets that are
right half the time."""


def class_sums(criteria: HarmCriteria, measured: Tensors) -> dict[str, np.ndarray]:
    """The sum of each quantity over each class, [classes], fetched at once; empty without classes."""
    members, count = criteria.members, len(criteria.class_sizes)
    if members is None:
        return {}
    names = quantities(measured)
    values = [measured[name].double() for name in names]
    sums = to_host(*(one.new_zeros(count).index_add_(0, members, one) for one in values))
    return {name: np.array(found) for name, found in zip(names, sums, strict=True)}


def class_room(criteria: HarmCriteria, sums: Mapping[str, np.ndarray]) -> Scales:
    """The scales by which a class may be traded for another, as models do that learn all of them: 0 overall.

    By steps this is not known: each trades too little, on too few samples. A class that is right half the time is
    traded more than one that nearly always is.

    Args:
        criteria: the classes that are tested each by itself.
        sums: of each quantity over each class; fractions of its samples.
    """
    if not criteria.classes:
        return {}
    sizes, found = np.array(criteria.class_sizes), {}
    for name, own in sums.items():
        share = np.clip(own / sizes, 0, 1)
        found[name] = scales_of_limits(np.concatenate([[0.0], _TRADED * np.sqrt(share * (1 - share))]))
    return found


def with_room(criteria: HarmCriteria, scales: Scales, room: Scales) -> dict[str, np.ndarray]:
    """Scales of an anchor that are no less than the room in a class, nor more than twice that, or than twice what is
    tolerated of one at first: what few samples seem to swing is mostly chance."""
    found = {}
    for name, scale in scales.items():
        found[name] = scale
        if name in room and len(scale) == len(room[name]):
            most = 2 * np.maximum(room[name], scales_of_limits(2 * criteria.least(name, len(scale))))
            found[name] = np.concatenate([scale[:1], np.clip(scale, room[name], most)[1:]])
    return found
