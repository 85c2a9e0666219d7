"""How much may be lost from the anchor: what is tolerated, or what honest steps swung when it was taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taster.core.types import Tensors
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.quantities import independent, quantities
from taster.defences.gates.swings import Scales, Swings, outlier_multiples

_EXCURSION = 2.0
"""How much further than one step several honest steps lead away from the anchor, which is taken at a good moment;
measured on nets that learn with momentum."""


def first_scales(criteria: HarmCriteria, measured: Tensors) -> dict[str, np.ndarray]:
    """The scales of an anchor before anything is known of a trained model's steps: those by which twice the tolerance
    may be lost, or just the tolerance of a user's own quantity. They are none of an attacker's making."""
    groups, times = 1 + criteria.classes, 1 if independent(measured) else 2
    return {name: scales_of_limits(times * criteria.least(name, groups)) for name in quantities(measured)}


def scales_of_limits(limits: np.ndarray) -> np.ndarray:
    """The scales by which so much may be lost from the anchor, overall and in each class, [groups]."""
    found: np.ndarray = limits / (_EXCURSION * outlier_multiples(len(limits)))
    return found


def narrowed(
    criteria: HarmCriteria, frozen: Scales, swings: Swings, grown: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The scales of the anchor, where honest steps swing less by now with what they do. They may shrink, and where the
    model has improved grow to twice what they were at most, so that nobody can widen them little by little.

    Args:
        criteria: whether the quantities are independent.
        frozen: as they were.
        swings: of now.
        grown: the quantities that have improved, of independent ones those alone; None for no improvement.
    """
    now = swings.settled_scales()
    found = {}
    for name, then in {**now, **frozen}.items():
        present = now.get(name, then)
        room = 2.0 if grown and (name in grown or not criteria.independent) else 1.0
        found[name] = np.where(np.isfinite(present), np.minimum(room * then, present), then)
    return found


def anchor_limits(criteria: HarmCriteria, name: str, groups: int, frozen: Scales, swings: Swings) -> np.ndarray:
    """The drop of a quantity from the anchor that is let through, overall and in each class, [groups]: what is
    tolerated, or more where honest steps swung more when the anchor was taken.

    Args:
        criteria: what is tolerated.
        name: of the quantity.
        groups: all samples, and the classes.
        frozen: the scales of the anchor.
        swings: of now.
    """
    least, unknown = criteria.least(name, groups), np.full(groups, np.inf)
    then, now = (found.get(name, unknown) for found in (frozen, swings.scales()))
    # What was not known when the anchor was taken is known from the first audit on.
    scale = np.where(np.isfinite(then), then, np.where(np.isfinite(now), now, 0.0))
    found: np.ndarray = np.maximum(least, _EXCURSION * outlier_multiples(groups) * scale)
    return found
