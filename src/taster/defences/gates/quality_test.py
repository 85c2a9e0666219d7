"""By which evidence a gate tells harm: what swings more than honest updates do, and what has fallen from the anchor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from taster.core.types import Tensors
from taster.errors import GuardError
from taster.stats.paired_sums import PairedSums
from taster.stats.swing import Swing

Sums = Mapping[str, PairedSums]
"""Drops by quantity."""

_REFERENCES = 2
"""The last check and the anchor: each quantity is tested against both."""

_ANCHOR = "the anchor"

_LOOKS = 8
"""Looks at the probe that the alpha of a step's tests is shared out over; twice as many samples each time."""

_SURE = 2.33
"""Standard errors within which a drop lies with 99 %."""

_MULTIPLE = 5.0
"""Scales above the centre of honest changes from which on a change is an outlier; measured on nets that learn with
momentum, whose changes have heavy tails."""

_SUSPECT = 0.6
"""What of that is enough where the batch itself is an outlier by its loss."""

_STRICT = 0.3
"""What of that is enough where the model is below its anchor, with no way back."""

_CLASS = 2.5
"""How much further out a change in one class must be: there are many of them."""

_EXCURSION = 2.0
"""How much further than one step several honest steps lead away from the anchor, which is taken at a good moment;
measured likewise."""

_DOUBT = 0.02
"""The p-value of a drop beyond its limit from which on it is looked into."""

_FEW = 5
"""Samples of a class under which a look says nothing of it."""


@dataclass(frozen=True)
class Evidence:
    """Evidence that an update did harm.

    Attributes:
        reason: a sentence.
        numbers: those behind it.
        quantity, group: what has fallen, of all samples (0) or in a class.
    """

    reason: str
    numbers: Mapping[str, float]
    quantity: str = ""
    group: int = 0


class Swings:
    """How much each quantity has swung, overall and in each class."""

    def __init__(self) -> None:
        self._swings: dict[str, Swing] = {}

    def limits(self, name: str, least: np.ndarray, unknown: np.ndarray, share: float) -> np.ndarray:
        """The drop of a quantity, overall and in each class, from which on the next one is an outlier."""
        return self._swings.get(name, Swing.empty(len(least))).limit(least, unknown, share * _multiples(len(least)))

    def append(self, name: str, sums: PairedSums) -> None:
        """Remembers the changes of a step that was committed."""
        known = np.asarray(sums.count) >= _FEW
        drops = np.array([sums.drop(group) if seen else np.nan for group, seen in enumerate(known)])
        errors = np.array([sums.error(group) if seen else np.nan for group, seen in enumerate(known)])
        self._swings[name] = self._swings.get(name, Swing.empty(sums.groups)).with_change(drops, errors)

    @property
    def known(self) -> bool:
        """Whether there are enough changes to tell."""
        return any(np.isfinite(swing.scale[0]) for swing in self._swings.values())

    def forget_classes(self, groups: int) -> None:
        """Keeps what is known overall, for as many groups as there are now: all samples, and other classes."""
        for name, swing in self._swings.items():
            changes = torch.tensor([0.0, torch.inf]).double().repeat(len(swing.changes), groups, 1)
            changes[:, 0] = swing.changes[:, 0]
            self._swings[name] = Swing(changes)

    def scales(self) -> dict[str, Tensor]:
        """The scale of each, overall and in each class; infinite where there were too few to know."""
        return {name: torch.from_numpy(swing.scale) for name, swing in self._swings.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """All changes."""
        return {name: swing.changes for name, swing in self._swings.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores them."""
        self._swings = {name: Swing(changes) for name, changes in state.items()}


class QualityTest:
    """Compares quantities of the same samples before and after.

    A drop is harm where it is more than a limit and more than chance: larger than what is tolerated and than honest
    steps swing, with a p-value under alpha of there being none.

    Args:
        tolerance: drop of a quantity's mean that is let through: in percentage points of fractions, or in its own
            units; one for all, or by name.
        alpha: of all tests of one check.
        class_tolerance: drop in one class that is let through, in points; None tests no classes.
        points: whether quantities are fractions, and tolerances percentage points.
    """

    def __init__(
        self,
        tolerance: float | Mapping[str, float],
        alpha: float,
        *,
        class_tolerance: float | None = None,
        points: bool = True,
    ) -> None:
        self.tolerance = tolerance
        self._alpha = alpha
        self._class_tolerance = class_tolerance
        self._scale = 100.0 if points else 1.0
        self._words: Mapping[str, str] = {}
        self._labels: list[int] = []
        self._share = 0.0
        self._independent = False
        self.codes: Tensor | None = None

    def prepare(self, classes: Tensor | None, words: Mapping[str, str]) -> None:
        """Groups the samples by class, and takes the quantities' names for sentences."""
        self._words = words
        self.codes, self._labels, self._share = None, [], 0.0
        if classes is None:
            return
        labels, codes, counts = torch.unique(classes, return_inverse=True, return_counts=True)
        # Of one class alone nobody can do better than chance; then nothing is known of it.
        self._share = float(counts.max()) / len(classes) if len(labels) > 1 else 0.0
        if self._class_tolerance is not None:
            self.codes, self._labels = codes.reshape(-1), labels.tolist()

    @property
    def labels(self) -> Sequence[int]:
        """The classes that are tested each by itself."""
        return self._labels

    @property
    def classes(self) -> int:
        """How many classes are tested each by itself."""
        return len(self._labels)

    @property
    def chance(self) -> float:
        """The accuracy of who knows nothing but which class is the most frequent; 0 without classes."""
        return self._share

    def tolerance_of(self, name: str) -> float:
        """The drop that is let through of a quantity.

        Raises:
            GuardError: when tolerances have names, and none this one.
        """
        if not isinstance(self.tolerance, Mapping):
            return self.tolerance
        if name not in self.tolerance:
            raise GuardError(f"got tolerances of {', '.join(self.tolerance)}, wanted one of {name} as well")
        return self.tolerance[name]

    def check_quantities(self, measured: Tensors) -> None:
        """Checks that tolerances by name are those of what is measured, and that not everything is let through.

        Raises:
            GuardError: otherwise.
        """
        names = quantities(measured)
        self._independent = independent(measured)
        if isinstance(self.tolerance, Mapping) and set(self.tolerance) != set(names):
            raise GuardError(
                f"got tolerances of {', '.join(self.tolerance)}, wanted those of what is measured: {', '.join(names)}"
            )
        for name in names:
            # In points nobody takes a hundred for one; in units of their own many take 1 for a point.
            if self._scale == 1 and measured[name].dtype == torch.bool and self.tolerance_of(name) >= 1:
                raise GuardError(
                    f"got a tolerance of {self.tolerance_of(name):g} for {name}, which is right or wrong, so that any "
                    "drop would pass; wanted a fraction of the samples: 0.01 for one point"
                )

    def alpha_of_one(self, quantities: int, *, classes: bool) -> float:
        """The alpha of one test on all samples."""
        return (
            self._alpha * (0.5 if classes and self._class_tolerance is not None else 1.0) / (_REFERENCES * quantities)
        )

    def step(
        self, sums: Sums, frozen: Mapping[str, Tensor] | None, swings: Swings, *, suspect: bool, below: bool, last: bool
    ) -> tuple[Evidence | None, bool]:
        """Whether what was seen of an update is evidence of harm, and whether it is clear without a further look.

        Of two quantities of one task less of the last is harm: of the probability of the true class, in which harm
        shows on fewer samples, and which swings less, than in accuracy.

        Args:
            sums: the drops since the last check, of the samples looked at so far.
            frozen: the scales of the anchor: no step may cost more than may be lost from the anchor, so that nobody
                gains by widening the swing. None for a model that has begun to learn only now.
            swings: of the changes before.
            suspect: whether the batch is an outlier among the last ones by its loss; then less is harm.
            below: whether the model is below its anchor; then much less is.
            last: whether there is no further look.
        """
        clear = True
        names = quantities(sums)
        for name in names:
            drops = sums[name]
            least = self._least(name, drops.groups)
            share = _STRICT if below else _SUSPECT if suspect else 1.0
            half = 0.5 if name in watched(sums) else 1.0
            worth = np.concatenate([half * least[:1], least[1:]]) * (_STRICT if below else 1.0)
            # One class may be lost for a while by who begins to learn the others.
            unknown = least if frozen is not None else np.concatenate([least[:1], np.full_like(least[1:], np.inf)])
            limits = swings.limits(name, worth, unknown, share)
            if frozen is not None:
                limits = np.minimum(limits, self.anchor_limits(name, sums, frozen, swings))
            for group in range(drops.groups):
                limit, drop = float(limits[group]), drops.drop(group)
                if drop > limit:
                    if group and drops.gain_pvalue() < self._alpha:
                        break  # what is new is learned at a price
                    p = drops.pvalue(group)
                    if p < (
                        self._alpha if below and not group else self._alpha_of_group(drops, group, len(names)) / _LOOKS
                    ):
                        return self._evidence(name, group, drop, limit, p, "the last check"), True
                    clear = clear and p > (_DOUBT if group == 0 else self._alpha / drops.groups)
                if group == 0 and name in watched(sums):
                    clear = clear and drop + _SURE * drops.error() <= max(limit, float(least[0]))
        return None, clear or last

    def fallen(
        self, sums: Sums, frozen: Mapping[str, Tensor], swings: Swings, *, below: bool = False, classes: bool = True
    ) -> Evidence | None:
        """Evidence that a quantity has fallen from the anchor's; of a model that was below it, that it still is by half
        as much; class by class too, or overall alone."""
        names = quantities(sums)
        # New data costs a model confidence in the old before it pays in accuracy; in the loss it pays at once, and a
        # loss that falls is a drop.
        if "loss" in sums and len(names) > 1 and sums["loss"].pvalue() < self._alpha / (_REFERENCES * len(names)):
            names = names[:1]
        for name in names:
            drops, limits = sums[name], self.anchor_limits(name, sums, frozen, swings) / (2 if below else 1)
            for group in range(drops.groups if classes else 1):
                drop, limit = drops.drop(group), float(limits[group])
                if drop > limit:
                    p = drops.pvalue(group)
                    if p < self._alpha_of_group(drops, group, len(names)):
                        return self._evidence(name, group, drop, limit, p, _ANCHOR)
        return None

    def fallen_held_out(self, sums: Sums, frozen: Mapping[str, Tensor], swings: Swings) -> Evidence | None:
        """The same on samples that no other check sees: of the quantity that the promise is about, overall."""
        for name in anchored(sums):
            drops, limit = sums[name], float(self.anchor_limits(name, sums, frozen, swings)[0])
            p = drops.pvalue()
            if drops.drop() > limit and p < self.alpha_held_out:
                found = self._evidence(name, 0, drops.drop(), limit, p, _ANCHOR)
                return replace(found, numbers={**found.numbers, "held_out": 1.0})
        return None

    @property
    def alpha_held_out(self) -> float:
        """The alpha of the one test on samples that are held out."""
        return self._alpha / _REFERENCES

    def first_scales(self, measured: Tensors) -> dict[str, Tensor]:
        """The scales of an anchor before anything is known of a trained model's steps: those by which twice the
        tolerance may be lost, or just the tolerance of a user's own quantity. They are none of an attacker's making."""
        groups, times = 1 + self.classes, 1 if independent(measured) else 2
        return {
            name: torch.from_numpy(times * self._least(name, groups) / (_EXCURSION * _multiples(groups)))
            for name in quantities(measured)
        }

    def narrowed(
        self, frozen: Mapping[str, Tensor], swings: Swings, grown: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        """The scales of the anchor, where honest steps swing less by now with what they do. They may shrink, and where
        the model has improved grow to twice what they were at most, so that nobody can widen them little by little.

        Args:
            frozen: as they were.
            swings: of now.
            grown: the quantities that have improved, of independent ones those alone; None for no improvement.
        """
        now = swings.scales()
        found = {}
        for name, then in {**now, **frozen}.items():
            present = now.get(name, then)
            room = 2.0 if grown and (name in grown or not self._independent) else 1.0
            found[name] = torch.where(present.isfinite(), torch.minimum(room * then, present), then)
        return found

    def anchor_limits(self, name: str, sums: Sums, frozen: Mapping[str, Tensor], swings: Swings) -> np.ndarray:
        """The drop of a quantity from the anchor that is let through, overall and in each class: what is tolerated, or
        more where honest steps swung more when the anchor was taken."""
        groups = sums[name].groups
        least, unknown = self._least(name, groups), torch.full((groups,), torch.inf, dtype=torch.float64)
        then, now = (found.get(name, unknown).numpy() for found in (frozen, swings.scales()))
        # What was not known when the anchor was taken is known from the first audit on.
        scale = np.where(np.isfinite(then), then, np.where(np.isfinite(now), now, 0.0))
        found: np.ndarray = np.maximum(least, _EXCURSION * _multiples(groups) * scale)
        return found

    def seems_fallen(self, sums: Sums, frozen: Mapping[str, Tensor], swings: Swings) -> bool:
        """Whether a first look is reason enough for an audit."""
        return any(
            sums[name].drop() > self.anchor_limits(name, sums, frozen, swings)[0] and sums[name].pvalue() < _DOUBT
            for name in quantities(sums)
        )

    def falls_on(self, evidence: Evidence, sums: Sums) -> bool:
        """Whether what has fallen has fallen further, by drops from when that was found."""
        drops = sums[evidence.quantity]
        least = float(self._least(evidence.quantity, drops.groups)[evidence.group])
        return drops.drop(evidence.group) > least / 2 and drops.pvalue(evidence.group) < _DOUBT

    def any_drop(self, sums: Sums) -> Evidence | None:
        """A drop of any size, significant or not: for updates that get no benefit of the doubt. Of two quantities of
        one task by the last, which hardly ever stays the same where the first counts; of independent ones by any."""
        for name in watched(sums):
            drop = self._scale * sums[name].drop()
            if drop > 0:
                what = self._words.get(name, name)
                said = f"a part of a refused batch would cost {self._amount(drop, 2)} of {what}"
                return Evidence(said, {"drop": drop})
        return None

    def grown(self, sums: Sums) -> list[str]:
        """The quantities that have significantly grown, by sums of drops from the anchor: those by which it moves up, a
        task's first one or each of independent ones."""
        names = anchored(sums)
        alpha = self._alpha / (max(1, sums[names[0]].groups) * len(names))
        return [name for name in names if sums[name].gain_pvalue() < alpha]

    def drifting(self, sums: Sums) -> bool:
        """Whether there is evidence of any drop from the anchor."""
        return any(sums[name].pvalue() < self._alpha for name in watched(sums))

    def acceptable(self, sums: Sums) -> bool:
        """Whether a state is good enough to go back to: no more than half the tolerance below the anchor."""
        return all(sums[name].drop() <= float(self._least(name, 1)[0]) / 2 for name in anchored(sums))

    def _least(self, name: str, groups: int) -> np.ndarray:
        """What is tolerated in any case, overall and in each class, as a fraction or in the quantity's units."""
        least = np.full(groups, self.tolerance_of(name), dtype=np.float64)
        least[1:] = 0.0 if self._class_tolerance is None else self._class_tolerance
        return least / self._scale

    def _alpha_of_group(self, drops: PairedSums, group: int, names: int) -> float:
        share = 1.0 if drops.groups == 1 else 0.5 if group == 0 else 0.5 / (drops.groups - 1)
        return share * self._alpha / (_REFERENCES * names)

    def _evidence(self, name: str, group: int, drop: float, limit: float, p: float, when: str) -> Evidence:
        where = f", class {self._labels[group - 1]}," if group else ""
        drop, limit = self._scale * drop, self._scale * limit
        return Evidence(
            f"{self._words.get(name, name)} on the probe{where} would fall by {self._amount(drop)} against {when}: "
            f"more than {limit:.3g} (p = {p:.1g})",
            {"drop": drop, "limit": limit, "p": p, "audited": float(when == _ANCHOR)},
            name,
            group,
        )

    def _amount(self, drop: float, digits: int = 1) -> str:
        return f"{drop:.{digits}f} points" if self._scale != 1 else f"{drop:.3g}"


def _multiples(groups: int) -> np.ndarray:
    found: np.ndarray = np.where(np.arange(groups) == 0, _MULTIPLE, _CLASS * _MULTIPLE)
    return found


def quantities(measured: Mapping[str, object]) -> list[str]:
    """The names of what is tested."""
    return [name for name in measured if name != "loss"]


def independent(measured: Mapping[str, object]) -> bool:
    """Whether quantities have nothing to do with each other: a user's own. Those of a task come with a loss."""
    return "loss" not in measured


def watched(measured: Mapping[str, object]) -> list[str]:
    """The quantities by which a step is judged: each of independent ones, a task's last."""
    return quantities(measured) if independent(measured) else quantities(measured)[-1:]


def anchored(measured: Mapping[str, object]) -> list[str]:
    """The quantities by which the anchor is held: each of independent ones, a task's first."""
    return quantities(measured) if independent(measured) else quantities(measured)[:1]
