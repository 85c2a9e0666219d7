"""The anchor: the state that later ones are held to, which moves up when the model has improved, and never down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from taster.core.types import Tensors
from taster.defences.gates.anchor_limits import first_scales, narrowed
from taster.defences.gates.anchor_test import drifting, grown
from taster.defences.gates.class_room import class_room, class_sums, with_room
from taster.defences.gates.harm_criteria import HarmCriteria
from taster.defences.gates.quantities import Sums, anchored, independent
from taster.defences.gates.swings import Scales, Swings, loaded_array, saved_array

_CHANCE = 1e-3
"""The p-value of an accuracy above chance from which on a model has something to lose."""

_LITTLE = 0.1
"""The part of the way from chance to no error at all that is little."""

_RECENT = 60
"""Checks after which an anchor that has not moved up says that the model is level."""

EARLY = "watching: too few steps yet to say whether the model is level"
LEARNING = "watching: the model is still learning"
LEVEL = "watching: the model is level"
DRIFTING = "watching: the model is drifting away from the anchor"
BELOW = (
    "watching: the model has fallen below the anchor, with no way back; until it has risen, less may be lost: look at "
    "what was learned, or load an earlier state"
)
UNTRAINED = "watching: the model does no better than chance yet"


@dataclass(frozen=True, eq=False)
class Anchor:
    """The state that later ones are held to.

    Attributes:
        measured: of all samples.
        scales: how much honest steps swung when it was taken.
        trained: whether it does better than chance.
        since: checks since it was taken or moved up.
        moved: whether it ever moved up.
        young: whether the model did no better than chance when the gate was made, and has not been level since: its
            steps swing more as it learns, and nothing is known of how much is too much.
        lead: its accuracy over that of chance, as a fraction; 0 where chance is not known.
        room: the scales by which a class may be traded for another, whatever its steps swing.
    """

    measured: Tensors
    scales: Scales = field(default_factory=dict)
    trained: bool = True
    since: int = 0
    moved: bool = False
    young: bool = False
    lead: float = 0.0
    room: Scales = field(default_factory=dict)

    @classmethod
    def of(cls, measured: Tensors, criteria: HarmCriteria, swings: Swings, *, young: bool) -> Anchor:
        """Of a measured state; young too where it does no better than chance, or hardly."""
        sums = class_sums(criteria, measured)
        trained, lead, little = lead_over_chance(criteria, measured, sums)
        first, room = first_scales(criteria, measured) if trained else {}, class_room(criteria, sums)
        scales = swings.scales()
        if trained:
            # What is not known of the steps yet is none of their making.
            known = {name: np.where(np.isfinite(now), now, first.get(name, now)) for name, now in scales.items()}
            scales = with_room(criteria, {**first, **known}, room)
        return cls(measured, scales, trained, young=young or not trained or little, lead=lead, room=room)

    def checked(self) -> Anchor:
        """After one more check that was no audit."""
        return replace(self, since=self.since + 1)

    def audited(self, fallen: Sums, now: Tensors, criteria: HarmCriteria, swings: Swings) -> Anchor:
        """After an audit: moved up where the model has improved, and with narrower scales where steps swing less.

        Args:
            fallen: the drops from the anchor that the audit found.
            now: what it measured, of all samples.
            criteria: what counts as an improvement.
            swings: of now.
        """
        improved = grown(criteria, fallen)
        if improved or not self.trained:
            measured = now if not independent(now) else {**self.measured, **{name: now[name] for name in improved}}
            scales = swings.scales() if self.young else narrowed(criteria, self.scales, swings, improved)
            sums = class_sums(criteria, measured)
            room = class_room(criteria, sums)
            trained, lead, _ = lead_over_chance(criteria, measured, sums)
            scales = with_room(criteria, scales, room)
            return Anchor(measured, scales, trained, 0, bool(improved), self.young, lead, room)
        scales = with_room(criteria, narrowed(criteria, self.scales, swings), self.room)
        young = self.young and self.since < 2 * _RECENT
        return replace(self, since=self.since + 1, scales=scales, young=young)

    def phase(self, fallen: Sums, criteria: HarmCriteria) -> str:
        """What the model does, by the drops that the audit found from the anchor before it."""
        if not self.trained:
            return UNTRAINED
        if self.moved and self.since < _RECENT:
            return LEARNING
        if drifting(criteria, fallen):
            return DRIFTING
        return LEVEL if self.since >= _RECENT else EARLY

    def state_dict(self) -> dict[str, Any]:
        """The attributes, by name."""
        return {
            "measured": self.measured,
            "scales": {name: saved_array(scale) for name, scale in self.scales.items()},
            "trained": self.trained,
            "since": self.since,
            "moved": self.moved,
            "young": self.young,
            "lead": self.lead,
            "room": {name: saved_array(scale) for name, scale in self.room.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Anchor:
        """As it was saved."""
        loaded = {
            part: {name: loaded_array(scale) for name, scale in state[part].items()} for part in ("scales", "room")
        }
        return cls(**{**state, **loaded})


def lead_over_chance(
    criteria: HarmCriteria, measured: Tensors, sums: Mapping[str, np.ndarray]
) -> tuple[bool, float, bool]:
    """Whether a model does better than chance, as far as one knows what that is; by how much; and whether that is
    little. A net of random weights is often a little better, and for certain."""
    if not criteria.chance:
        return True, 0.0, False
    hits, sizes = sums[anchored(measured)[0]], np.array(criteria.class_sizes)
    samples = int(sizes.sum())
    better = is_above_chance(hits.sum(), samples, criteria.chance) or is_above_chance_by_class(hits, sizes)
    lead, even = float(hits.sum()) / samples - criteria.chance, 1 / len(sizes)
    relative = max(lead / (1 - criteria.chance), (float((hits / sizes).mean()) - even) / (1 - even))
    return better, max(0.0, lead), relative < _LITTLE


def is_above_chance_by_class(right: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether the mean of the accuracies in the classes is more than that of predictions which have nothing to do with
    the samples: one by the number of classes. So a model is told from chance that finds a rare class at the price of
    false alarms, and is right less often than who never says so.

    Args:
        right, sizes: right answers and samples of each class, [classes].
    """
    from scipy.stats import norm  # slow to import, and only needed here

    shares = (right + 1) / (sizes + 2)
    error = math.sqrt(float((shares * (1 - shares) / sizes).sum()))
    return float(norm.sf((float((right / sizes).sum()) - 1) / error)) < _CHANCE


def is_above_chance(right: float, samples: int, chance: float) -> bool:
    """Whether so many right answers are more than chance has."""
    from scipy.stats import binom  # slow to import, and only needed here

    return float(binom.sf(round(right) - 1, samples, chance)) < _CHANCE
