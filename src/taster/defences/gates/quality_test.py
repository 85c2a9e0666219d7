"""The paired tests by which a gate compares two measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from taster.core.types import Tensors
from taster.errors import GuardError
from taster.stats.paired_tests import mcnemar_pvalue, paired_t_pvalue

_REFERENCES = 2
"""The last check and the anchor: each quantity is tested against both."""


@dataclass(frozen=True)
class Evidence:
    """Evidence that an update did harm: a sentence, and the numbers behind it."""

    reason: str
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class _Group:
    """Samples that are tested together, and the fraction of alpha that their tests have."""

    name: str
    mask: Tensor | None
    tolerance: float | None
    alpha_fraction: float


class QualityTest:
    """Compares quantities of the same samples before and after: yes or no by McNemar's test, numbers by Student's.

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
        self._groups = [_Group("", None, None, 1.0)]

    def prepare(self, classes: Tensor | None, words: Mapping[str, str]) -> None:
        """Groups the samples, all of them and those of each class, and takes the quantities' names for sentences."""
        self._words = words
        if classes is None or self._class_tolerance is None:
            self._groups = [_Group("", None, None, 1.0)]
            return
        labels = torch.unique(classes).tolist()
        self._groups = [
            _Group("", None, None, 0.5),
            *(_Group(f", class {n},", classes == n, self._class_tolerance, 0.5 / len(labels)) for n in labels),
        ]

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

    def test_drop(self, before: Tensors, now: Tensors, when: str, *, alerted: bool) -> Evidence | None:
        """Evidence that a quantity has dropped since `when` by more than is tolerated; nothing is, when alerted."""
        names = quantities(before)
        tests = _REFERENCES * len(names)
        # New data costs a model confidence in the old before it pays in accuracy; in the loss it pays at once.
        if "loss" in before and len(names) > 1 and paired_t_pvalue(before["loss"], now["loss"]) < self._alpha / tests:
            names = names[:1]
        for name in names:
            for group in self._groups:
                then, there = _masked(before[name], group.mask), _masked(now[name], group.mask)
                tolerance = self.tolerance_of(name) if group.tolerance is None else group.tolerance
                tolerance = 0.0 if alerted and group.tolerance is None else tolerance
                p = _pvalue(then, there, tolerance / self._scale)
                if p < group.alpha_fraction * self._alpha / tests:
                    drop = self._scale * _drop(then, there)
                    return Evidence(
                        f"{self._words.get(name, name)} on the probe{group.name} would fall by {self._amount(drop)} "
                        f"against {when}: more than {tolerance:g} (p = {p:.1g})",
                        {"drop": drop, "tolerance": tolerance, "p": p, "alerted": float(alerted)},
                    )
        return None

    def any_drop(self, last: Tensors, now: Tensors) -> Evidence | None:
        """A drop of any size, significant or not: for updates that get no benefit of the doubt. Of two quantities of
        one task by the last, which hardly ever stays the same where the first counts; of independent ones by any."""
        for name in quantities(last) if _independent(last) else quantities(last)[-1:]:
            drop = self._scale * float(last[name].double().mean() - now[name].double().mean())
            if drop > 0:
                what = self._words.get(name, name)
                said = f"a part of a refused batch would cost {self._amount(drop, 2)} of {what}"
                return Evidence(said, {"drop": drop})
        return None

    def raised(self, anchor: Tensors, now: Tensors) -> Tensors:
        """The anchor, moved up where a quantity has significantly grown: as a whole by a task's first quantity, and one
        by one where they are independent. Otherwise one that grows would take the others' losses along."""
        names = quantities(anchor) if _independent(anchor) else quantities(anchor)[:1]
        alpha = self._alpha / (len(self._groups) * len(names))
        grown = [name for name in names if _pvalue(now[name], anchor[name], 0.0) < alpha]
        if not _independent(anchor):
            return now if grown else anchor
        return {**anchor, **{name: now[name] for name in grown}} if grown else anchor

    def acceptable(self, anchor: Tensors, now: Tensors) -> bool:
        """Whether a state is good enough to go back to: a task's first quantity, or each of independent ones, no more
        than half the tolerance below the anchor's."""
        return all(
            self._scale * _drop(anchor[name], now[name]) <= self.tolerance_of(name) / 2
            for name in (quantities(anchor) if _independent(anchor) else quantities(anchor)[:1])
        )

    def _amount(self, drop: float, digits: int = 1) -> str:
        return f"{drop:.{digits}f} points" if self._scale != 1 else f"{drop:.3g}"


def quantities(measured: Tensors) -> list[str]:
    """The names of what is tested."""
    return [name for name in measured if name != "loss"]


def _independent(measured: Tensors) -> bool:
    """Whether quantities have nothing to do with each other: a user's own. Those of a task come with a loss."""
    return "loss" not in measured


def _pvalue(before: Tensor, now: Tensor, tolerance: float) -> float:
    if before.dtype == torch.bool:
        return mcnemar_pvalue(before, now, tolerance)
    return paired_t_pvalue(before, now, tolerance)


def _masked(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values[mask]


def _drop(before: Tensor, now: Tensor) -> float:
    if before.dtype == torch.bool:
        before, now = before.float(), now.float()
    return float(before.mean() - now.mean())
