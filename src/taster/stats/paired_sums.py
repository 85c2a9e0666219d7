"""Paired differences as sums, overall and by class: what tests need of them, and all that leaves the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binom, t
from torch import Tensor

Array = np.ndarray


@dataclass(frozen=True)
class PairedSums:
    """Drops of one quantity from one model to another on the same samples. Sums of further samples are added with `+`.

    Attributes:
        yes_or_no: whether the quantity is right or wrong, so that a drop is 1, 0 or −1.
        count, total, squares: [1 + classes], of all samples and of each class: how many, the sum of drops, and of their
            squares.
    """

    yes_or_no: bool
    count: Array
    total: Array
    squares: Array

    def __add__(self, other: PairedSums) -> PairedSums:
        return PairedSums(
            self.yes_or_no, self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    @property
    def groups(self) -> int:
        """All samples, and the classes."""
        return len(self.count)

    def drop(self, group: int = 0) -> float:
        """The mean drop; 0 without samples."""
        return float(self.total[group] / self.count[group]) if self.count[group] else 0.0

    def error(self, group: int = 0) -> float:
        """The standard error of the mean drop; infinite for fewer than two samples."""
        n = float(self.count[group])
        if n < 2:
            return math.inf
        variance = max(0.0, float(self.squares[group]) - float(self.total[group]) ** 2 / n) / (n - 1)
        return math.sqrt(variance / n)

    def pvalue(self, group: int = 0) -> float:
        """Of the hypothesis that there is no drop: McNemar's exact test of yes and no, Student's paired test of
        numbers; 1 where there are too few samples to tell."""
        n = int(self.count[group])
        drop = self.drop(group)
        if n < 2 or not drop > 0:
            return 1.0
        if self.yes_or_no:
            changed = round(float(self.squares[group]))
            lost = round((changed + float(self.total[group])) / 2)
            return float(binom.sf(lost - 1, changed, 0.5))
        error = self.error(group)
        return float(t.sf(drop / error, n - 1)) if error > 0 else 0.0

    def gain_pvalue(self, group: int = 0) -> float:
        """Of the hypothesis that there is no gain."""
        return PairedSums(self.yes_or_no, self.count, -self.total, self.squares).pvalue(group)


def sums_on_device(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], codes: Tensor | None, classes: int
) -> Tensor:
    """The sums of all quantities, [quantities, 3, 1 + classes] in float64, on the device of the measurements.

    Args:
        before, after: each quantity by name, [n].
        codes: the class of each sample, [n] from 0; None without classes.
        classes: how many there are.
    """
    drops = [before[name].double() - after[name].double() for name in before]
    if codes is None or not classes:  # there may not be as many of each quantity
        return torch.stack([torch.stack([d.new_full((), len(d)), d.sum(), d.square().sum()]) for d in drops])[..., None]
    every = torch.stack(drops)  # [quantities, n]
    rows = torch.stack([torch.ones_like(every), every, every.square()], 1)
    overall = rows.sum(2, keepdim=True)
    member = (codes[:, None] == torch.arange(classes, device=codes.device)).double()
    return torch.cat([overall, rows @ member], 2)


def sums_by_name(kinds: Mapping[str, bool], sums: Array) -> dict[str, PairedSums]:
    """What `sums_on_device` computed, after the transfer; `kinds` says of each quantity whether it is yes or no."""
    return {name: PairedSums(kind, *sums[i]) for i, (name, kind) in enumerate(kinds.items())}
